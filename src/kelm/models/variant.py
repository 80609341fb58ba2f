"""A variant over a resident base: which tensors the two share, which are the variant's own, and how those are made.

    slot                    what layers say of it             the variant's tensor
    layers.0.qkv.weight     nothing                           the base's, the very same
    layers.0.out.weight     T, T.delta, T.indices (delta.py)  the file's with layers added in float32, rounded once
    layers.0.up.weight      lora_A, lora_B (adapter.py)       the base's, and a pair beside it (linear.py)

Layers are applied from the base up. A whole tensor takes the place of all that lay under it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.blueprint import Files
from kelm.models.layout import Slot
from kelm.models.linear import LOW_RANK_A, LOW_RANK_B, Part, low_rank, low_rank_shapes
from kelm.models.loader import Model, Plan, plan
from kelm.models.tensor_index import Entry
from kelm.models.weights import Checkpoint, Progress, Reader, weight_bytes
from kelm.store import adapter, delta
from kelm.store.tensors import TensorFile

_LINEARS = {"qkv", "out", "up", "down", "head", "dense", "last"}
"""Slots that models multiply with (linear.py); tables and norms are not among them."""


@dataclass(frozen=True, slots=True)
class LaidOver:
    """A variant that passed every check and isn't made yet. ``own_bytes``: what it takes beside its base."""

    own_bytes: int
    make: Callable[[Progress | None], Model]


def lay_over(base: Model, base_files: Files, files: Files, layers: Sequence[Files]) -> LaidOver:
    """``layers`` over ``base``, which was loaded from ``base_files``; ``files``: the same with the variant's overrides.

    Raises ModelFormatError: a layer names what isn't part of the model, or has another shape; UnsupportedModel for a
    low-rank layer on what isn't a linear, and what plan() doesn't know.
    """
    wanted = plan(files)
    changes = _read(layers, wanted)
    checkpoint = _Changed(wanted.checkpoint, changes)
    _check(wanted, checkpoint, changes)
    below = plan(base_files).wanted
    own = {
        name: slot
        for name, slot in wanted.wanted.items()
        if below.get(name) != slot or not changes.tensors.keys().isdisjoint(slot.names)
    }
    pairs = _pairs(wanted.wanted, changes)
    own_bytes = checkpoint.size_bytes(own, base.dtype) + sum(pair.size_bytes for pair in pairs.values())

    def make(progress: Progress | None) -> Model:
        weights = {name: base.weights[name] for name in wanted.wanted if name not in own}
        shared_bytes = weight_bytes(weights.values())
        weights |= checkpoint.read(own, base.dtype, progress)
        for name, pair in pairs.items():
            weights[f"{name}.{LOW_RANK_A}"], weights[f"{name}.{LOW_RANK_B}"] = pair.make(changes.files)
        model = wanted.make(weights, base.dtype)
        model.info = replace(model.info, weight_bytes=own_bytes, shared_bytes=shared_bytes)
        return model

    return LaidOver(own_bytes, make)


@dataclass(frozen=True, slots=True)
class _Change:
    """A difference of one tensor. ``kind``: tensors, dense, sparse (store.delta); ``name``: without its end."""

    kind: str
    file: str
    name: str


@dataclass(slots=True)
class _Changes:
    """What all layers together do, by the checkpoint's names of tensors. ``files``: name for errors -> path."""

    tensors: dict[str, list[_Change]] = field(default_factory=dict)
    low_rank: dict[str, list[tuple[TensorFile, adapter.LowRank]]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def whole(self, target: str, file: TensorFile, stored: str) -> None:
        """What lay under it is gone."""
        info = file.tensors[stored]
        self.entries[target] = Entry(file.name, stored, info.dtype, info.shape)
        self.tensors[target] = [_Change("tensors", file.name, stored)]
        self.low_rank.pop(target, None)


def _read(layers: Sequence[Files], wanted: Plan) -> _Changes:
    found = _Changes()
    for number, files in enumerate(layers, 1):
        name = delta.FILE if delta.FILE in files else adapter.WEIGHTS
        file = TensorFile(files[name], f"layer {number}: {name}")
        found.files[file.name] = files[name]
        if name == delta.FILE:
            _read_delta(found, file, wanted.aliases)
        else:
            _read_adapter(found, file, adapter.read(Path(files[adapter.CONFIG]).read_bytes(), file), wanted.aliases)
    return found


def _read_delta(found: _Changes, file: TensorFile, aliases: Mapping[str, str]) -> None:
    for change in delta.changes(file):
        target = aliases.get(change.target, change.target)
        if change.kind == "tensors":
            found.whole(target, file, change.target)
        else:
            found.tensors.setdefault(target, []).append(_Change(change.kind, file.name, change.target))


def _read_adapter(found: _Changes, file: TensorFile, layer: adapter.Adapter, aliases: Mapping[str, str]) -> None:
    for tensor, stored in layer.whole.items():
        found.whole(aliases.get(tensor, tensor), file, stored)
    for part in layer.low_rank:
        target = f"{part.module}.weight"
        found.low_rank.setdefault(aliases.get(target, target), []).append((file, part))


class _Changed(Checkpoint):
    """A checkpoint as layers make it."""

    def __init__(self, below: Checkpoint, changes: _Changes) -> None:
        self._files = {**below._files, **changes.files}
        self._quantization = below._quantization
        self.entries = {**below.entries, **changes.entries}
        self._changes = changes.tensors

    def tensor(self, reader: Reader, name: str) -> Tensor:
        """The last whole tensor of ``name``, and what was added since."""
        made = super().tensor(reader, name)
        for change in self._changes.get(name, ()):
            if change.kind == "dense":
                made = made.float() + reader.get(change.file, change.name + delta.DENSE).float()
            elif change.kind == "sparse":
                made = made.to(torch.float32, copy=True)
                values = reader.get(change.file, change.name + delta.VALUES).float()
                made.view(-1)[reader.get(change.file, change.name + delta.INDICES)] += values  # each index once
        return made


def _check(wanted: Plan, checkpoint: _Changed, changes: _Changes) -> None:
    """Raises ModelFormatError. A tensor that the base's own file has and its config doesn't use may be changed too."""
    names = checkpoint.check_wanted(wanted.wanted)
    names |= {name for slot in wanted.wanted.values() for name in slot.names}  # quantized ones go by other names
    unused = re.compile("|".join(f"(^|\\.){re.escape(end)}$" for end in wanted.unused) or "$^")
    for target, files in _targets(changes):
        if target not in names and not (target in wanted.checkpoint.entries and unused.search(target)):
            raise ModelFormatError(f"{files}: {target} is not part of the model that config.json describes")


def _targets(changes: _Changes) -> list[tuple[str, str]]:
    """Every tensor that layers change, and the file that does it last."""
    found = [(target, each[-1].file) for target, each in changes.tensors.items()]
    return found + [(target, each[-1][0].name) for target, each in changes.low_rank.items()]


@dataclass(frozen=True, slots=True)
class _Pair:
    """The low-rank differences of one slot: (first row, file, what it holds)."""

    slot: Slot
    parts: tuple[tuple[int, TensorFile, adapter.LowRank], ...]

    @property
    def rows(self) -> int:
        return sum(shape[0] for shape in self.slot.shapes)

    @property
    def size_bytes(self) -> int:
        ranks = [(file.tensors[part.a].shape[0], file.tensors[part.a].shape[1]) for _, file, part in self.parts]
        (rank, columns), (rows, _) = low_rank_shapes(ranks, self.rows)
        return 4 * rank * (rows + columns)

    def make(self, files: Mapping[str, str]) -> tuple[Tensor, Tensor]:
        reader = Reader(files)
        parts = [
            Part(row, reader.get(file.name, part.a), reader.get(file.name, part.b), part.scale)
            for row, file, part in self.parts
        ]
        return low_rank(parts, self.rows)


def _pairs(wanted: Mapping[str, Slot], changes: _Changes) -> dict[str, _Pair]:
    """By linear (``layers.0.qkv``). Raises UnsupportedModel, ModelFormatError."""
    found: dict[str, _Pair] = {}
    for name, slot in wanted.items():
        parts, row = [], 0
        for target, shape in zip(slot.names, slot.shapes, strict=True):
            for file, part in changes.low_rank.get(target, ()):
                _check_pair(name, shape, file, part)
                parts.append((row, file, part))
            row += shape[0]
        if parts:
            found[name.removesuffix(".weight")] = _Pair(slot, tuple(parts))
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
