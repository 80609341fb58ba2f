"""Which tensors a checkpoint's files hold, from their headers, checked against what a spec asks for before any is read.

Knows no torch: what packs images (images.py) and what makes torch's weights (weights.py) read the same way in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.fields import read_json
from kelm.models.layout import Slot
from kelm.models.quantization import FLOATS, Quantization, Stored
from kelm.store.safetensors import read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file: the file's name, the tensor's own, its type as safetensors writes it, its shape."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]


class TensorIndex:
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

    @property
    def files(self) -> Mapping[str, str]:
        """Name -> path."""
        return self._files

    def prefix(self, candidates: Iterable[str], name: str) -> str:
        """The first prefix under which ``name`` is there; the first candidate if none is (a later check says so)."""
        candidates = tuple(candidates)
        return next((p for p in candidates if p + name in self.entries), candidates[0])

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
            wanted |= self.stored(slot)
        missing = [name for name in wanted if name not in self.entries]
        if missing:
            raise ModelFormatError(f"{self._holders()}: {len(missing)} tensors are missing, first {missing[0]}")
        for name, stored in wanted.items():
            _check_entry(name, self.entries[name], stored)
        return set(wanted)

    def _holders(self) -> str:
        return ", ".join(sorted({entry.file for entry in self.entries.values()})) or SINGLE

    def stored(self, slot: Slot) -> dict[str, Stored]:
        """The tensors of the files that make a slot, and what they must be."""
        found: dict[str, Stored] = {}
        quantization = self.quantization_of(slot)
        for name, shape in zip(slot.names, slot.shapes, strict=True):
            if quantization is not None:
                found |= quantization.stored(module_of(name), *shape)
            else:
                found[name] = (shape[::-1] if slot.transposed and len(shape) == 2 else shape, FLOATS)
        return found

    def quantization_of(self, slot: Slot) -> Quantization | None:
        """How a slot's parts are quantized. Raises UnsupportedModel where only some of them are, or they lie as
        [in, out]."""
        if self._quantization is None or not slot.linear:
            return None
        scales = [f"{module_of(name)}.weight_scale" in self.entries for name in slot.names]
        if not any(scales):
            return None
        if not all(scales):
            plain = slot.names[scales.index(False)]
            raise UnsupportedModel(f"{plain} is not quantized, what it is multiplied with in one go is")
        if slot.transposed:
            raise UnsupportedModel(f"{slot.names[0]} is quantized; native families read such weights as [out, in] only")
        return self._quantization


def _check_entry(name: str, entry: Entry, stored: Stored) -> None:
    shape, dtypes = stored
    if entry.shape != shape:
        raise ModelFormatError(
            f"{entry.file}: tensor {name} has shape {list(entry.shape)}, config.json asks for {list(shape)}"
        )
    if entry.dtype not in dtypes:
        wanted = "F32, F16, BF16" if dtypes == FLOATS else ", ".join(dtypes)
        raise UnsupportedModel(f"{entry.file}: tensor {name} is {entry.dtype}; native families read {wanted}")


def module_of(name: str) -> str:
    return name.removesuffix(".weight")


def elements(slot: Slot) -> int:
    return sum(math.prod(shape) for shape in slot.shapes)


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
