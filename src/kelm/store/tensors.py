"""Tensors of safetensors files as numpy arrays, mapped rather than read, once their header is checked.

numpy has no bfloat16; its bits come as uint16, and ``as_float32`` gives the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelm.errors import ModelFormatError
from kelm.store.safetensors import Header, TensorInfo, read_header

FLOATS = ("F32", "F16", "BF16")
_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I8": "<i1"}
_CHUNK = 1 << 20


class TensorFile:
    """One safetensors file. Raises ModelFormatError when its header is malformed."""

    def __init__(self, path: str | Path, name: str) -> None:
        self._path, self.name = path, name
        self.header: Header = read_header(path, name=name)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.header.tensors

    def array(self, tensor: str) -> NDArray[Any]:
        """Read-only; ModelFormatError for a type that is not one of these: F32, F16, BF16, I64, I32, I8."""
        info = self.tensors[tensor]
        if info.dtype not in _NUMPY:
            raise self.wrong(tensor, f"is {info.dtype}; {', '.join(_NUMPY)} are read")
        if info.begin == info.end:
            return np.empty(info.shape, _NUMPY[info.dtype])
        offset = self.header.data_start + info.begin
        return np.memmap(self._path, _NUMPY[info.dtype], "r", offset, info.shape or (1,)).reshape(info.shape)

    def float32(self, tensor: str) -> NDArray[np.float32]:
        """A float tensor's numbers."""
        return as_float32(self.array(tensor), self.tensors[tensor].dtype)

    def check_finite(self, tensor: str) -> None:
        """Raises ModelFormatError for NaN and infinities, without holding the whole tensor."""
        info = self.tensors[tensor]
        if info.dtype not in FLOATS:
            raise self.wrong(tensor, f"is {info.dtype}; it must be one of {', '.join(FLOATS)}")
        for chunk in _chunks(self.array(tensor).reshape(-1)):
            if not np.isfinite(as_float32(chunk, info.dtype)).all():
                raise self.wrong(tensor, "holds a value that is not a finite number")

    def wrong(self, tensor: str, problem: str) -> ModelFormatError:
        return ModelFormatError(f"{self.name}: {tensor[:200]}: {problem}", param=tensor[:200])


def as_float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The numbers of a float tensor; ``dtype`` as safetensors writes it."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def _chunks(flat: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]
