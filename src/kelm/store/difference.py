"""Makes delta files (delta.py): what has to be added to one set of tensors to get another.

A tensor with few changed values becomes a sparse difference, one with many a dense one, and one that the base lacks or
has in another shape is taken whole. Adding is done in float32, so float16 and bfloat16 come out exactly, and float32
to within its last place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kelm.errors import InvalidRequest
from kelm.store.base_tensors import BaseTensors
from kelm.store.delta import DENSE, FORMAT, INDICES, VALUES
from kelm.store.tensors import FLOATS, TensorFile

Floats = NDArray[np.float32]
_SPARSE_COST = 3
"""An index and a value take as many bytes as three values of a dense difference."""


def difference(name: str, old: Floats | None, new: Floats) -> dict[str, NDArray[np.generic]]:
    """What a delta file holds of tensor ``name``; nothing when it has not changed. ``old`` None: the base lacks it."""
    if old is None or old.shape != new.shape:
        return {name: new}
    changed = np.flatnonzero(old != new)
    if not len(changed):
        return {}
    if len(changed) * _SPARSE_COST < new.size:
        values = new.reshape(-1)[changed] - old.reshape(-1)[changed]
        return {name + INDICES: changed.astype(np.int64), name + VALUES: values}
    return {name + DENSE: new - old}


def write_delta(path: Path, base: str, old: Mapping[str, Floats], new: Mapping[str, Floats]) -> None:
    """Write the delta from ``old`` to ``new``, tensor by tensor, so that mappings may be lazy; those that only ``old``
    has stay as they are. ``base``: digest of the base's manifest (``store.resolve(name).digest``).

    Raises InvalidRequest when nothing has changed.
    """

    def parts() -> Iterator[tuple[str, NDArray[np.generic]]]:
        for name in new:
            yield from difference(name, old.get(name), new[name]).items()

    header: dict[str, object] = {"__metadata__": {"format": FORMAT, "base": base}}
    end = 0
    for name, array in parts():
        kind = "I64" if array.dtype == np.int64 else "F32"
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    if not end:
        raise InvalidRequest("nothing differs from the base: there is no delta to write")
    with path.open("wb") as stream:
        _write_header(stream, header)
        for _, array in parts():  # made again, so that one tensor at a time is held
            stream.write(np.ascontiguousarray(array).tobytes())


def _write_header(stream: BinaryIO, header: Mapping[str, object]) -> None:
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    stream.write(len(raw).to_bytes(8, "little") + raw)


class Tensors(Mapping[str, Floats]):
    """The float tensors of a checkpoint's files (name -> path), each read when it is asked for."""

    def __init__(self, files: Mapping[str, str]) -> None:
        shards = [TensorFile(path, name) for name, path in files.items() if name.endswith(".safetensors")]
        self._where = {n: file for file in shards for n, info in file.tensors.items() if info.dtype in FLOATS}
        self.shapes = {name: file.tensors[name].shape for name, file in self._where.items()}

    def __getitem__(self, name: str) -> Floats:
        return self._where[name].float32(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class Renamed(Mapping[str, Floats]):
    """``tensors`` by the names that a base has for them."""

    def __init__(self, tensors: Mapping[str, Floats], base: BaseTensors) -> None:
        self._tensors = tensors
        self._names = {base.counterpart(name) or name: name for name in tensors}

    def __getitem__(self, name: str) -> Floats:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_checkpoint_delta(path: Path, base: BaseTensors, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """As ``write_delta``, from the files of two checkpoints (name -> path)."""
    before = Tensors(old)
    write_delta(path, base.digest, before, Renamed(Tensors(new), base))
