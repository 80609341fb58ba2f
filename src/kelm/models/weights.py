"""Weights for torch, read from the files of a checkpoint whose tensors were checked (tensor_index.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from safetensors import safe_open
from torch import Tensor

from kelm.models.layout import Slot
from kelm.models.tensor_index import Entry, TensorIndex, elements, module_of
from kelm.ops.quantized import Weight
from kelm.store.safetensors import DTYPE_BYTES

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as weights arrive."""

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Checkpoint(TensorIndex):
    """Its tensors can be read, too."""

    def dtype(self, name: str) -> torch.dtype:
        """The checkpoint's own precision, float16 as bfloat16 (the same bits a weight; float16 overflows)."""
        stored = _FLOATS.get(self.entries[name].dtype, torch.float32) if name in self.entries else torch.float32
        return torch.bfloat16 if stored == torch.float16 else stored

    def read(self, slots: Mapping[str, Slot], dtype: torch.dtype, progress: Progress | None) -> dict[str, Weight]:
        """The tensors of ``slots`` in ``dtype`` (norms in float32; quantized linears as they are), in memory of their
        own: a file that is cut short later can't take the process down, and where a tensor lies in memory doesn't
        depend on the file."""
        total = self.size_bytes(slots, dtype)
        done = 0
        weights: dict[str, Weight] = {}
        reader = Reader(self._files)
        for name, slot in slots.items():
            weights[name] = self._slot(reader, slot, dtype)
            done += self._bytes(slot, dtype)
            if progress is not None:
                progress(done, total)
        return weights

    def _slot(self, reader: Reader, slot: Slot, dtype: torch.dtype) -> Weight:
        quantization = self.quantization_of(slot)
        if quantization is not None:
            modules = {module_of(name): shape[0] for name, shape in zip(slot.names, slot.shapes, strict=True)}
            columns = slot.shapes[0][1]
            return quantization.read(modules, columns, dtype, lambda name: reader.tensor(self.entries[name]))
        target = dtype if slot.offset is None else torch.float32
        rows = sum(shape[0] for shape in slot.shapes)
        out = torch.empty((rows, *slot.shapes[0][1:]), dtype=target)
        for name, part in zip(slot.names, torch.split(out, [shape[0] for shape in slot.shapes]), strict=True):
            tensor = self.tensor(reader, name)
            part.copy_(tensor.T if slot.transposed else tensor)
        return out.add_(slot.offset) if slot.offset else out

    def tensor(self, reader: Reader, name: str) -> Tensor:
        """As it is in the files."""
        return reader.tensor(self.entries[name])

    def size_bytes(self, slots: Mapping[str, Slot], dtype: torch.dtype) -> int:
        """What ``read`` makes of them in memory."""
        return sum(self._bytes(slot, dtype) for slot in slots.values())

    def _bytes(self, slot: Slot, dtype: torch.dtype) -> int:
        """Of a slot in memory."""
        if self.quantization_of(slot) is None:
            return elements(slot) * (dtype if slot.offset is None else torch.float32).itemsize
        entries = [self.entries[name] for name in self.stored(slot)]
        return sum(math.prod(e.shape) * DTYPE_BYTES[e.dtype] for e in entries)


def parameters(slots: Mapping[str, Slot]) -> int:
    return sum(elements(slot) for slot in slots.values())


def weight_bytes(weights: Iterable[Weight]) -> int:
    return sum(w.nbytes for w in weights)


class Reader:
    """Tensors of a checkpoint's files, each opened once."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._open: dict[str, safe_open] = {}

    def tensor(self, entry: Entry) -> Tensor:
        return self.get(entry.file, entry.name)

    def get(self, file: str, name: str) -> Tensor:
        if file not in self._open:
            self._open[file] = safe_open(self._files[file], framework="pt")
        tensor: Tensor = self._open[file].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor
