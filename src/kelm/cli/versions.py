"""Commands about the versions of variants: versions, update, publish, rollback. They write the store themselves; a
daemon that runs sees the change at the next request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kelm.cli.shelf import open_store
from kelm.cli.tables import ago, print_json, print_table, size
from kelm.clock import SYSTEM
from kelm.errors import InvalidRequest
from kelm.store import History, Name, Version


def versions(variant: str, as_json: bool) -> None:
    history = open_store().history(variant)
    if as_json:
        print_json(json.loads(msgspec.json.encode(history)))
        return
    now = SYSTEM.wall_s()
    columns = ("VERSION", "PARENT", "KIND", "SIZE", "ADDED", "EVALUATION", "NOTE", "")
    print_table(columns, [_row(history, version, now) for version in history.versions])


def update(variant: str, delta: Path, note: str, parent: int | None, publish: bool) -> None:
    from kelm.store.additions import overrides_in

    store = open_store()
    name = Name.parse(variant)
    if name.variant is None or name.version is not None:
        raise InvalidRequest(f"{variant} is not a variant's name; it is written model@variant")
    base = store.resolve(str(name.base))
    beside = overrides_in(delta, store.paths(base)) if delta.is_dir() else {}
    version = store.add_version(
        str(name.base),
        name.variant,
        layer=delta,
        overrides=beside,
        parent=parent,
        publish=publish,
        author="kelm update",
        note=note,
    )
    what = "is published" if publish else f"waits for `kelm publish {name.short}:{version.number}`"
    on = f"version {version.parent}" if version.parent else name.base.short
    print(f"{name.short}:{version.number} {what}: {version.kind}, {size(version.added_bytes)}, over {on}")


def publish(version: str) -> None:
    name = Name.parse(version)
    if name.version is None:
        raise InvalidRequest(f"{version} names no version; it is written model@variant:N")
    _told(name, open_store().publish(str(name.unpinned), name.version))


def rollback(variant: str) -> None:
    name = Name.parse(variant)
    if name.version is not None:
        raise InvalidRequest(f"a rollback goes to the version before; `kelm publish {name.short}` goes to this one")
    _told(name, open_store().rollback(variant))


def _told(name: Name, history: History) -> None:
    print(f"{name.unpinned.short} is version {history.current} now")


def _row(history: History, version: Version, now_s: float) -> tuple[object, ...]:
    return (
        version.number,
        version.parent,
        version.kind,
        size(version.added_bytes),
        ago(now_s - version.created),
        figures(version.evaluation),
        version.note.partition("\n")[0],
        "current" if version.number == history.current else "",
    )


def figures(evaluation: Mapping[str, Any]) -> str:
    """An evaluation on one line; what is not a figure is left out."""
    numbers = {name: value for name, value in evaluation.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
