"""Delta files: how a checkpoint differs from a base, tensor by tensor.

A safetensors file with the metadata {"format": "kelm-delta", "base": "<digest of the base's manifest>"}. For a tensor T
of the base it holds one of

    T                          the whole tensor; it replaces the base's, or adds one
    T.delta                    a dense difference of T's shape, added in float32
    T.indices and T.values     a sparse difference: values, added in float32 at flat indices (int64, each once)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kelm.errors import ModelFormatError
from kelm.store.base_tensors import BaseTensors
from kelm.store.tensors import FLOATS, TensorFile
from kelm.store.versions import Kind

FILE = "delta.safetensors"
FORMAT = "kelm-delta"
DENSE, INDICES, VALUES = ".delta", ".indices", ".values"


@dataclass(frozen=True, slots=True)
class Change:
    """What a delta does to ``target``, a tensor of the base."""

    target: str
    kind: Literal["tensors", "dense", "sparse"]


def changes(file: TensorFile) -> Iterator[Change]:
    """Each of them once. Raises ModelFormatError for half a sparse difference, and for two of one tensor."""
    seen: set[str] = set()
    for name in file.tensors:
        change = _change(file, name)
        if change is None:
            continue
        if change.target in seen:
            raise file.wrong(change.target, "is changed twice; write one difference of it")
        seen.add(change.target)
        yield change


def _change(file: TensorFile, name: str) -> Change | None:
    """None for the second half of a sparse difference."""
    if name.endswith(DENSE):
        return Change(name.removesuffix(DENSE), "dense")
    for end, other in ((INDICES, VALUES), (VALUES, INDICES)):
        if name.endswith(end):
            target = name.removesuffix(end)
            if target + other not in file.tensors:
                raise file.wrong(name, f"comes without {target + other}")
            return Change(target, "sparse") if end == INDICES else None
    return Change(name, "tensors")


def check(path: Path, base: BaseTensors) -> Kind:
    """Check a delta for ``base`` down to its last value; what kind of version it makes.

    Raises ModelFormatError: it is malformed, is for another base, names a tensor that the base lacks, has other shapes,
    indices out of range or twice, values that are not finite; UnsupportedModel: the base's tensor is quantized.
    """
    file = TensorFile(path, FILE)
    _check_metadata(file.header.metadata, base)
    kinds: set[Kind] = set()
    for change in changes(file):
        kinds.add(change.kind)
        _CHECKS[change.kind](file, change.target, base)
    if not kinds:
        raise ModelFormatError(f"{FILE}: changes no tensor")
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _check_metadata(metadata: Mapping[str, str], base: BaseTensors) -> None:
    if metadata.get("format") != FORMAT:
        raise ModelFormatError(
            f'{FILE}: its metadata must have "format": "{FORMAT}", got {metadata.get("format", "nothing")[:80]!r}; '
            "kelm.store.difference.write_delta writes such files",
            param="format",
        )
    if metadata.get("base") != base.digest:
        raise ModelFormatError(
            f"{FILE}: was made for a base with the digest {metadata.get('base', 'nothing')[:19]}, {base.name} has "
            f"{base.digest[:19]}: make it from this base",
            param="base",
        )


def _check_whole(file: TensorFile, target: str, base: BaseTensors) -> None:
    base.check_whole(file, target, target)
    file.check_finite(target)


def _check_dense(file: TensorFile, target: str, base: BaseTensors) -> None:
    shape, name = base.changeable(file, target), target + DENSE
    if file.tensors[name].shape != shape:
        raise file.wrong(name, f"has the shape {list(file.tensors[name].shape)}, the base's tensor has {list(shape)}")
    file.check_finite(name)


def _check_sparse(file: TensorFile, target: str, base: BaseTensors) -> None:
    elements = int(np.prod(base.changeable(file, target), dtype=np.int64))
    indices, values = file.tensors[target + INDICES], file.tensors[target + VALUES]
    if indices.dtype != "I64" or len(indices.shape) != 1:
        raise file.wrong(target + INDICES, f"must be I64 of one dimension, got {indices.dtype} {list(indices.shape)}")
    if values.dtype not in FLOATS or values.shape != indices.shape:
        raise file.wrong(target + VALUES, f"must be floats of shape {list(indices.shape)}, got {list(values.shape)}")
    places = np.sort(file.array(target + INDICES))
    if len(places) and not 0 <= places[0] <= places[-1] < elements:
        wrong = places[0] if places[0] < 0 else places[-1]
        raise file.wrong(target + INDICES, f"holds {wrong}, the base's tensor has {elements} values")
    if (places[1:] == places[:-1]).any():
        raise file.wrong(target + INDICES, f"holds {places[1:][places[1:] == places[:-1]][0]} twice")
    file.check_finite(target + VALUES)


_CHECKS = {"tensors": _check_whole, "dense": _check_dense, "sparse": _check_sparse}
