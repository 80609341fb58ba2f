"""`kelm tune`: the data are looked at here, where their mistakes cost nothing; the job runs in the daemon."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from kelm import limits
from kelm.cli import daemon, following, loading, shelf
from kelm.cli.client import Json, running
from kelm.cli.tables import print_table
from kelm.config import load_settings
from kelm.errors import ConfigError, InvalidRequest
from kelm.store import Name
from kelm.text import rows
from kelm.tune import data as examples

NEEDED = ("torch", "transformers", "peft")
_BOUNDS = {
    "epochs": limits.TUNE_EPOCHS,
    "learning_rate": limits.TUNE_RATE,
    "rank": limits.TUNE_RANK,
    "seed": limits.TUNE_SEED,
}


def tune(base: str, path: Path, variant: str | None, wanted: dict[str, Any], wait: bool) -> None:
    """``wanted``: the method's settings that were given, None for the others.

    Raises what reading the data, finding the base, starting a daemon and the job itself raise.
    """
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"kelm tune needs {', '.join(missing)}, not installed here: pip install 'kelm[tune]'")
    for name, value in wanted.items():
        if value is not None:
            _BOUNDS[name].check(value, field=name)
    target = _target(base, _variant(path) if variant is None else variant)
    text = rows.decode(_read(path), path.name)
    found = examples.read(text.encode(), path.name)
    shelf.ensure(base)
    client = running(load_settings()) or daemon.start({})
    given = {name: value for name, value in wanted.items() if value is not None}
    spec = {"kind": "tune", "base": base, "variant": target.variant, "file": path.name, **given}
    pid = following.start(client, spec, text)["pid"]
    print(f"job {pid}: {target.short} learns {found.kind} from {len(found)} examples of {path.name}", flush=True)
    if not wait:
        print(f"{following.advice(pid)}; `kelm ps` shows how far it is")
        return
    result = following.wait(client, pid)
    loading.bring_up(client, target.short)
    _show(result)


def _target(base: str, variant: str) -> Name:
    """BASE@VARIANT. Raises InvalidRequest when it is none."""
    parsed = Name.parse(base)
    if parsed.variant is not None:
        raise InvalidRequest(f"{base} is a variant; a variant is tuned from its base, {parsed.base.short}")
    name = Name.parse(f"{base}@{variant}")
    if name.version is not None:
        raise InvalidRequest(f"{variant} names a version, which is given out, not chosen: --name VARIANT")
    return name


def _variant(path: Path) -> str:
    """A name made of the file's. Raises InvalidRequest when it has no letters for one."""
    made = re.sub(r"[^A-Za-z0-9._]+", "-", path.stem)
    made = re.sub(r"\.{2,}", ".", made).strip("-.")[:64].rstrip("-.")
    if not made:
        raise InvalidRequest(f"no name for the variant can be made of {path.name}: give it one with --name VARIANT")
    return made


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(int(limits.JOB_DATA_BYTES.most) + 1)
    except OSError as error:
        raise InvalidRequest(f"{path} can't be read: {error.strerror}") from None


def _show(result: Json) -> None:
    figures = result["evaluation"]
    held_out = f"on {figures['held_out']} held-out examples"
    if result["kind"] == "classification":
        told = f"accuracy {figures['accuracy']:.3f}, macro F1 {figures['macro_f1']:.3f} {held_out}"
        columns = ("LABEL", "PRECISION", "RECALL", "F1", "N")
        numbers = ("precision", "recall", "f1")
        print_table(
            columns, [(row["label"], *(f"{row[n]:.3f}" for n in numbers), row["support"]) for row in result["classes"]]
        )
    else:
        name = "heldout_loss" if figures["held_out"] else "taught_loss"
        where = held_out if figures["held_out"] else "on the examples themselves, none were held out"
        told = f"loss {figures[name + '_before']:.3f} before, {figures[name]:.3f} now, {where}"
    print(f"{result['model']} is served, version {result['version']}: {told}")
