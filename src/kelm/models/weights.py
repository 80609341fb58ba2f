"""Reading weights: safetensors files, one or sharded, checked against what the spec asks for before any is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.fields import read_json
from kelm.models.layout import Slot
from kelm.models.quantization import FLOATS, Quantization, Stored
from kelm.ops.quantized import Weight
from kelm.store.safetensors import DTYPE_BYTES, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as weights arrive."""

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file: the file's name, the tensor's own, its type as safetensors writes it, its shape."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """The tensors of a model's files by name. ``files``: name in the checkpoint -> path; ``renamed``: ends of names;
    ``quantization``: of its linears, where they are.

    Raises ModelFormatError: no weights, a shard is missing, a header is malformed, a name is there twice.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        renamed: Sequence[tuple[str, str]] = (),
        quantization: Quantization | None = None,
    ) -> None:
        self._files = files
        self._quantization = quantization
        self.entries: dict[str, Entry] = {}
        for file in _weight_files(files):
            for stored, entry in _header(file, files[file]).items():
                name = next((stored.removesuffix(old) + new for old, new in renamed if stored.endswith(old)), stored)
                if name in self.entries:
                    raise ModelFormatError(f"{file}: tensor {name} is also in {self.entries[name].file}")
                self.entries[name] = entry

    def prefix(self, candidates: Iterable[str], name: str) -> str:
        """The first prefix under which ``name`` is there; the first candidate if none is (a later check says so)."""
        candidates = tuple(candidates)
        return next((p for p in candidates if p + name in self.entries), candidates[0])

    def dtype(self, name: str) -> torch.dtype:
        """The checkpoint's own precision, float16 as bfloat16 (the same bits a weight; float16 overflows)."""
        stored = _FLOATS.get(self.entries[name].dtype, torch.float32) if name in self.entries else torch.float32
        return torch.bfloat16 if stored == torch.float16 else stored

    def check(self, slots: Mapping[str, Slot], ignored: Iterable[str]) -> None:
        """Raise ModelFormatError unless the files hold exactly the tensors of ``slots`` (``ignored`` ends aside)."""
        wanted = self.check_wanted(slots)
        known = re.compile("|".join(f"(^|\\.){re.escape(end)}$" for end in ignored) or "$^")
        extra = [name for name in self.entries if name not in wanted and not known.search(name)]
        if extra:
            entry = self.entries[extra[0]]
            raise ModelFormatError(f"{entry.file}: {len(extra)} tensors are not the config's, first {extra[0]}")

    def check_wanted(self, slots: Mapping[str, Slot]) -> set[str]:
        """Raise ModelFormatError unless every tensor of ``slots`` is there as it must be; their names."""
        wanted: dict[str, Stored] = {}
        for slot in slots.values():
            wanted |= self._stored(slot)
        missing = [name for name in wanted if name not in self.entries]
        if missing:
            raise ModelFormatError(f"{self._holders()}: {len(missing)} tensors are missing, first {missing[0]}")
        for name, stored in wanted.items():
            _check_entry(name, self.entries[name], stored)
        return set(wanted)

    def _holders(self) -> str:
        return ", ".join(sorted({entry.file for entry in self.entries.values()})) or SINGLE

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
        quantization = self._of(slot)
        if quantization is not None:
            modules = {_module(name): shape[0] for name, shape in zip(slot.names, slot.shapes, strict=True)}
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

    def _stored(self, slot: Slot) -> dict[str, Stored]:
        """The tensors of the files that make a slot."""
        found: dict[str, Stored] = {}
        quantization = self._of(slot)
        for name, shape in zip(slot.names, slot.shapes, strict=True):
            if quantization is not None:
                found |= quantization.stored(_module(name), *shape)
            else:
                found[name] = (shape[::-1] if slot.transposed and len(shape) == 2 else shape, FLOATS)
        return found

    def _of(self, slot: Slot) -> Quantization | None:
        """How a slot's parts are quantized. Raises UnsupportedModel where only some of them are, or they lie as
        [in, out]."""
        if self._quantization is None or not slot.linear:
            return None
        scales = [f"{_module(name)}.weight_scale" in self.entries for name in slot.names]
        if not any(scales):
            return None
        if not all(scales):
            plain = slot.names[scales.index(False)]
            raise UnsupportedModel(f"{plain} is not quantized, what it is multiplied with in one go is")
        if slot.transposed:
            raise UnsupportedModel(f"{slot.names[0]} is quantized; native families read such weights as [out, in] only")
        return self._quantization

    def size_bytes(self, slots: Mapping[str, Slot], dtype: torch.dtype) -> int:
        """What ``read`` makes of them in memory."""
        return sum(self._bytes(slot, dtype) for slot in slots.values())

    def _bytes(self, slot: Slot, dtype: torch.dtype) -> int:
        """Of a slot in memory."""
        if self._of(slot) is None:
            return _elements(slot) * (dtype if slot.offset is None else torch.float32).itemsize
        entries = [self.entries[name] for name in self._stored(slot)]
        return sum(torch.Size(e.shape).numel() * DTYPE_BYTES[e.dtype] for e in entries)


def parameters(slots: Mapping[str, Slot]) -> int:
    return sum(_elements(slot) for slot in slots.values())


def weight_bytes(weights: Iterable[Weight]) -> int:
    return sum(w.nbytes for w in weights)


def _check_entry(name: str, entry: Entry, stored: Stored) -> None:
    shape, dtypes = stored
    if entry.shape != shape:
        raise ModelFormatError(
            f"{entry.file}: tensor {name} has shape {list(entry.shape)}, config.json asks for {list(shape)}"
        )
    if entry.dtype not in dtypes:
        wanted = "F32, F16, BF16" if dtypes == FLOATS else ", ".join(dtypes)
        raise UnsupportedModel(f"{entry.file}: tensor {name} is {entry.dtype}; native families read {wanted}")


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _elements(slot: Slot) -> int:
    return sum(torch.Size(shape).numel() for shape in slot.shapes)


def _weight_files(files: Mapping[str, str]) -> list[str]:
    if INDEX in files:
        shards = read_json(files[INDEX], INDEX).table("weight_map")
        names = sorted({shards.text(tensor) for tensor in shards})
        missing = [name for name in names if name not in files]
        if missing:
            raise ModelFormatError(f"{INDEX} names {missing[0]}, which is not there")
        return names
    if SINGLE in files:
        return [SINGLE]
    found = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    if not found:
        raise ModelFormatError(f"no weights: there is no {SINGLE} and no {INDEX}")
    return found


def _header(file: str, path: str) -> dict[str, Entry]:
    tensors = read_header(path, name=file).tensors
    return {name: Entry(file, name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


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
