"""Commands about the models on disk: pull, import, list, show, rm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from kelm.cli.client import find
from kelm.cli.cost import print_record
from kelm.cli.tables import ago, count, print_json, print_table, progress, size
from kelm.clock import SYSTEM
from kelm.config import load_settings
from kelm.errors import InvalidRequest, KelmError, ModelNotFound
from kelm.store import BlobRef, Manifest, Name, Store, Variant, compression, images, precision
from kelm.store.safetensors import read_header


def open_store() -> Store:
    return Store(load_settings().home)


def pull(model: str) -> None:
    with progress(model) as report:
        manifest = open_store().pull(model, report)
    print(f"{Name.parse(manifest.name).short} is here: {size(manifest.size_bytes)}, {manifest.source}")


def import_(folder: Path, name: str | None) -> None:
    with progress(folder.name) as report:
        manifest = open_store().import_folder(folder, name or _name_of(folder), report)
    print(f"{Name.parse(manifest.name).short} is here: {size(manifest.size_bytes)}, {manifest.digest[:19]}")


def ensure(model: str) -> Manifest:
    """The model, pulled if it is not here. A name without an owner that looks like one of ours is taken for a slip."""
    store = open_store()
    try:
        return store.resolve(model)
    except ModelNotFound as missing:
        if Name.parse(model).org is None and "did you mean" in missing.message:
            raise
    with progress(model) as report:
        return store.pull(model, report)


def list_(as_json: bool) -> None:
    models = open_store().list()
    if as_json:
        print_json([_summary(model) for model in models])
        return
    now = SYSTEM.wall_s()
    rows = [
        (
            Name.parse(model.asked_as).short,
            model.digest[7:19],
            size(model.size_bytes),
            ago(now - model.created),
            f"version {model.version.number}, {model.version.kind}" if isinstance(model, Variant) else model.source,
        )
        for model in models
    ]
    print_table(("NAME", "DIGEST", "SIZE", "ADDED", "SOURCE"), rows)


def show(model: str, as_json: bool) -> None:
    store = open_store()
    manifest = store.resolve(model)
    facts = {**_summary(manifest), **_shape(store.paths(manifest)), "resident": _resident(Name.parse(manifest.name))}
    facts["images"] = {
        place.label.precision: place.path.stat().st_size for place in images.found(store.home.images, manifest.digest)
    }
    files = _own_files(manifest) if isinstance(manifest, Variant) else manifest.files
    facts["files"] = {name: {"digest": blob.digest, "size": blob.size} for name, blob in files.items()}
    if as_json:
        print_json(facts)
        return
    apart = ("files", "compression")
    lines = [(name.replace("_", " "), _said(name, value)) for name, value in facts.items() if name not in apart]
    print_table((), lines)
    print()
    made = compression.read(store.paths(manifest))
    if made is not None:
        print_record(made)
        print()
    print_table(("FILE", "SIZE"), [(name, size(blob.size)) for name, blob in sorted(files.items())])


def rm(model: str) -> None:
    store = open_store()
    name = Name.parse(model)
    if _resident(name) is not None:
        raise InvalidRequest(f"{model} is in memory: `kelm stop {model}` first")
    store.remove(model)
    print(f"{model} was removed")


def _summary(model: Manifest) -> dict[str, Any]:
    summary = {
        "name": model.asked_as,
        "digest": model.digest,
        "size": model.size_bytes,
        "created": model.created,
        "source": model.source,
    }
    if isinstance(model, Variant):
        version = model.version
        summary |= {"version": version.number, "parent": version.parent, "kind": version.kind, "base": model.base.name}
        summary |= {"evaluation": version.evaluation, "note": version.note}
    return summary


def _own_files(variant: Variant) -> dict[str, BlobRef]:
    """What lies over the base, layers numbered from it up."""
    layers = enumerate(variant.version.layers, 1)
    files = {f"{number}/{name}": blob for number, layer in layers for name, blob in layer.files.items()}
    return {**files, **variant.version.overrides}


def _shape(paths: dict[str, str]) -> dict[str, Any]:
    """What the files say of the model, read as plain data."""
    config = json.loads(Path(paths["config.json"]).read_bytes())
    headers = [read_header(path, name=name) for name, path in paths.items() if name.endswith(".safetensors")]
    tensors = {name: info for header in headers for name, info in header.tensors.items()}
    made = compression.read(paths)
    return {
        "architecture": ", ".join(config.get("architectures") or []) or config.get("model_type"),
        "parameters": precision.parameters(config, tensors),
        "precision": precision.precision(config, tensors),
        "dtypes": sorted({info.dtype for info in tensors.values()}),
        "max_context_tokens": config.get("max_position_embeddings") or config.get("n_positions"),
        "vocab": config.get("vocab_size"),
        "compression": None if made is None else msgspec.to_builtins(made),
    }


def _resident(name: Name) -> dict[str, Any] | None:
    """The daemon's line about a model (of a variant without a number: about any version); None when it is not in
    memory, or no daemon runs."""
    try:
        rows = find(load_settings()).call("GET", "/admin/models", timeout_s=2)["models"]
    except KelmError:
        return None
    known = ((row, Name.parse(row["name"])) for row in rows)
    return next((row for row, resident in known if name in (resident, resident.unpinned)), None)


def _said(name: str, value: Any) -> str:
    if name == "size":
        return size(value)
    if isinstance(value, dict) and name == "evaluation":
        return ", ".join(f"{figure} {value[figure]}" for figure in value)
    if name == "images":
        return ", ".join(f"{kind} {size(value[kind])}" for kind in value) or "none"
    if name == "parameters":
        return f"{count(value)} ({value})"
    if name == "created":
        return ago(SYSTEM.wall_s() - value)
    if name == "resident":
        return "no" if value is None else f"{value['state']}, executor {value['executor']}, dtype {value['dtype']}"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _name_of(folder: Path) -> str:
    """A model name from a folder's: what is not allowed in one becomes a dash."""
    text = re.sub(r"[^A-Za-z0-9._]+|-+", "-", folder.resolve().name).strip(".-_")
    return re.sub(r"\.{2,}", ".", text) or "model"
