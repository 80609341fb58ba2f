"""What is asked for, checked against what config.json says, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kelm.errors import InvalidRequest, ModelNotFound
from kelm.store import Manifest, Name, Store
from kelm.store import compression as record
from kelm.wire.jobs import Compress

BITS = (8, 4)
GROUPS = (32, 64, 128)
GROUP = 32
DEPTH_FIELDS = ("num_hidden_layers", "n_layer")


def default_name(model: str, bits: int | None, dropped: int) -> str:
    """``nano`` -> ``nano:int4``, ``nano:drop2-int4``; a tag of its own is kept before: ``nano:v1-int8``."""
    name = Name.parse(model).base
    tags = [f"drop{dropped}"] * bool(dropped) + [f"int{bits}"] * bool(bits)
    short = name.short
    return f"{short}{'-' if ':' in short else ':'}{'-'.join(tags)}"


def check(spec: Compress, store: Store) -> Manifest:
    """The source's manifest. Raises InvalidRequest, ModelNotFound."""
    _check_method(spec)
    model, name = Name.parse(spec.model), Name.parse(spec.name)
    if model.variant is not None:
        raise InvalidRequest(
            f"{model.short} is a variant; kelm compress takes whole models: compress {model.base.short}", param="model"
        )
    if name.variant is not None:
        raise InvalidRequest(f"{name.short} is a variant's name; the result is a model of its own", param="name")
    source = store.resolve(spec.model)
    _check_name(name, store, source)
    return source


def check_config(spec: Compress, config: Mapping[str, Any], made: record.Compression | None) -> None:
    """``made``: the source's own record, where it was compressed itself. Raises InvalidRequest."""
    if config.get("quantization_config") is not None:
        origin = f" ({made.source})" if made else ""
        raise InvalidRequest(f"{spec.model} is quantized already; compress the model that it was made from{origin}")
    depth = next((config[field] for field in DEPTH_FIELDS if isinstance(config.get(field), int)), None)
    if depth is None:
        return  # opening the source says what is wrong with it
    inner = max(0, depth - 2)
    if spec.drop_layers > inner:
        raise InvalidRequest(
            f"--drop-layers {spec.drop_layers}: {spec.model} has {depth} layers, of which the first and the last stay; "
            f"at most {inner} can go (--drop names any)"
        )
    beyond = [number for number in spec.drop if not 0 <= number < depth]
    if beyond:
        raise InvalidRequest(f"--drop {beyond[0]}: the layers of {spec.model} are 0 to {depth - 1}")
    if spec.drop and len(set(spec.drop)) == depth:
        raise InvalidRequest(f"--drop names all {depth} layers of {spec.model}; one has to stay")


def _check_method(spec: Compress) -> None:
    if spec.bits is None and not spec.drop_layers and not spec.drop:
        raise InvalidRequest("nothing to do: give --bits 8, --bits 4, --drop-layers N or --drop LAYERS")
    if spec.bits is not None and spec.bits not in BITS:
        raise InvalidRequest(f"--bits must be 8 or 4, got {spec.bits}", param="bits")
    if spec.group is not None and spec.bits != 4:
        raise InvalidRequest("--group is for --bits 4; with 8 bits each output has a scale of its own", param="group")
    if spec.group is not None and spec.group not in GROUPS:
        raise InvalidRequest(f"--group must be {', '.join(map(str, GROUPS))}, got {spec.group}", param="group")
    if spec.head and spec.bits is None:
        raise InvalidRequest("--head says what --bits rounds; give --bits too", param="head")
    if spec.drop_layers and spec.drop:
        raise InvalidRequest("give --drop-layers N or --drop LAYERS, not both", param="drop")
    if spec.drop_layers < 0:
        raise InvalidRequest(f"--drop-layers must be at least 1, got {spec.drop_layers}", param="drop_layers")


def _check_name(name: Name, store: Store, source: Manifest) -> None:
    """An earlier result of the same source is replaced, nothing else."""
    try:
        there = store.resolve(str(name))
    except ModelNotFound:
        return
    made = record.read(store.paths(there))
    if made is None or made.source != source.name:
        raise InvalidRequest(
            f"{name.short} is here already and is not a compressed {source.name}; take another --name, or "
            f"`kelm rm {name.short}` first",
            param="name",
        )
