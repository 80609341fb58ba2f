"""What the layers of a variant say of its base's tensors. Knows no torch: every executor's variants start from here.

Layers are applied from the base up. A whole tensor takes the place of all that lay under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.layout import Slot
from kelm.models.tensor_index import Entry, TensorIndex
from kelm.store import adapter, delta
from kelm.store.tensors import TensorFile

Files = Mapping[str, str]
_LINEARS = {"qkv", "out", "up", "down", "head", "dense", "last"}
"""Slots that models multiply with (linear.py); tables and norms are not among them."""


@dataclass(frozen=True, slots=True)
class Change:
    """A difference of one tensor. ``kind``: tensors, dense, sparse (store.delta); ``name``: without its end."""

    kind: str
    file: str
    name: str


@dataclass(slots=True)
class Changes:
    """What all layers together do, by the checkpoint's names of tensors. ``files``: name for errors -> path."""

    tensors: dict[str, list[Change]] = field(default_factory=dict)
    low_rank: dict[str, list[tuple[TensorFile, adapter.LowRank]]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def whole(self, target: str, file: TensorFile, stored: str) -> None:
        """What lay under it is gone."""
        info = file.tensors[stored]
        self.entries[target] = Entry(file.name, stored, info.dtype, info.shape)
        self.tensors[target] = [Change("tensors", file.name, stored)]
        self.low_rank.pop(target, None)


def read_layers(layers: Sequence[Files], aliases: Mapping[str, str]) -> Changes:
    """``aliases``: what other classes of the same model call its tensors -> what this checkpoint does.

    Raises ModelFormatError, UnsupportedModel."""
    found = Changes()
    for number, files in enumerate(layers, 1):
        name = delta.FILE if delta.FILE in files else adapter.WEIGHTS
        file = TensorFile(files[name], f"layer {number}: {name}")
        found.files[file.name] = files[name]
        if name == delta.FILE:
            _read_delta(found, file, aliases)
        else:
            _read_adapter(found, file, adapter.read(Path(files[adapter.CONFIG]).read_bytes(), file), aliases)
    return found


def _read_delta(found: Changes, file: TensorFile, aliases: Mapping[str, str]) -> None:
    for change in delta.changes(file):
        target = aliases.get(change.target, change.target)
        if change.kind == "tensors":
            found.whole(target, file, change.target)
        else:
            found.tensors.setdefault(target, []).append(Change(change.kind, file.name, change.target))


def _read_adapter(found: Changes, file: TensorFile, layer: adapter.Adapter, aliases: Mapping[str, str]) -> None:
    for tensor, stored in layer.whole.items():
        found.whole(aliases.get(tensor, tensor), file, stored)
    for part in layer.low_rank:
        target = f"{part.module}.weight"
        found.low_rank.setdefault(aliases.get(target, target), []).append((file, part))


def check_layers(changed: TensorIndex, slots: Mapping[str, Slot], unused: Iterable[str], changes: Changes) -> None:
    """Raises ModelFormatError. ``changed``: the base's tensors and those of the layers. A tensor that the base's own
    file has and its config doesn't use may be changed too."""
    names = changed.check_wanted(slots)
    names |= {name for slot in slots.values() for name in slot.names}  # quantized ones go by other names
    ends = re.compile("|".join(f"(^|\\.){re.escape(end)}$" for end in unused) or "$^")
    for target, files in _targets(changes):
        if target not in names and not (target in changed.entries and ends.search(target)):
            raise ModelFormatError(f"{files}: {target} is not part of the model that config.json describes")


def _targets(changes: Changes) -> list[tuple[str, str]]:
    """Every tensor that layers change, and the file that does it last."""
    found = [(target, each[-1].file) for target, each in changes.tensors.items()]
    return found + [(target, each[-1][0].name) for target, each in changes.low_rank.items()]


@dataclass(frozen=True, slots=True)
class Pair:
    """The low-rank differences of one slot: (first row, file, what it holds)."""

    slot: Slot
    parts: tuple[tuple[int, TensorFile, adapter.LowRank], ...]

    @property
    def rows(self) -> int:
        return sum(shape[0] for shape in self.slot.shapes)

    @property
    def ranks(self) -> list[tuple[int, int]]:
        """(rank, inputs) of each part."""
        return [(file.tensors[part.a].shape[0], file.tensors[part.a].shape[1]) for _, file, part in self.parts]


def pairs_of(wanted: Mapping[str, Slot], changes: Changes) -> dict[str, Pair]:
    """By linear (``layers.0.qkv``). Raises UnsupportedModel, ModelFormatError."""
    found: dict[str, Pair] = {}
    for name, slot in wanted.items():
        parts, row = [], 0
        for target, shape in zip(slot.names, slot.shapes, strict=True):
            for file, part in changes.low_rank.get(target, ()):
                _check_pair(name, shape, file, part)
                parts.append((row, file, part))
            row += shape[0]
        if parts:
            found[name.removesuffix(".weight")] = Pair(slot, tuple(parts))
    return found


def _check_pair(slot: str, shape: tuple[int, ...], file: TensorFile, part: adapter.LowRank) -> None:
    if slot.removesuffix(".weight").rpartition(".")[2] not in _LINEARS:
        raise UnsupportedModel(
            f"{file.name}: {part.module} is no linear, so a low-rank layer can't be served there; train it whole "
            "(modules_to_save)"
        )
    made = (file.tensors[part.b].shape[0], file.tensors[part.a].shape[1])
    if made != shape:
        raise ModelFormatError(f"{file.name}: {part.module} has the shape {list(shape)}, the layer {list(made)}")
