"""A variant over a resident base: which tensors the two share, which are the variant's own, and how those are made.

    slot                    what layers say of it             the variant's tensor
    layers.0.qkv.weight     nothing                           the base's, the very same
    layers.0.out.weight     T, T.delta, T.indices (delta.py)  the file's with layers added in float32, rounded once
    layers.0.up.weight      lora_A, lora_B (adapter.py)       the base's, and a pair beside it (linear.py)

What layers say is read in layers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kelm.models.blueprint import Files
from kelm.models.layers import Changes, Pair, check_layers, pairs_of, read_layers
from kelm.models.linear import LOW_RANK_A, LOW_RANK_B, Part, low_rank, low_rank_shapes
from kelm.models.loader import Model, plan
from kelm.models.weights import Checkpoint, Progress, Reader, weight_bytes
from kelm.store import delta


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
    changes = read_layers(layers, wanted.aliases)
    checkpoint = _Changed(wanted.checkpoint, changes)
    check_layers(checkpoint, wanted.wanted, wanted.unused, changes)
    below = plan(base_files).wanted
    own = {
        name: slot
        for name, slot in wanted.wanted.items()
        if below.get(name) != slot or not changes.tensors.keys().isdisjoint(slot.names)
    }
    pairs = pairs_of(wanted.wanted, changes)
    own_bytes = checkpoint.size_bytes(own, base.dtype) + sum(map(_size_bytes, pairs.values()))

    def make(progress: Progress | None) -> Model:
        weights = {name: base.weights[name] for name in wanted.wanted if name not in own}
        shared_bytes = weight_bytes(weights.values())
        weights |= checkpoint.read(own, base.dtype, progress)
        for name, pair in pairs.items():
            weights[f"{name}.{LOW_RANK_A}"], weights[f"{name}.{LOW_RANK_B}"] = _make(pair, changes.files)
        model = wanted.make(weights, base.dtype)
        model.info = replace(model.info, weight_bytes=own_bytes, shared_bytes=shared_bytes)
        return model

    return LaidOver(own_bytes, make)


class _Changed(Checkpoint):
    """A checkpoint as layers make it."""

    def __init__(self, below: Checkpoint, changes: Changes) -> None:
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


def _size_bytes(pair: Pair) -> int:
    (rank, columns), (rows, _) = low_rank_shapes(pair.ranks, pair.rows)
    return 4 * rank * (rows + columns)


def _make(pair: Pair, files: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    reader = Reader(files)
    parts = [
        Part(row, reader.get(file.name, part.a), reader.get(file.name, part.b), part.scale)
        for row, file, part in pair.parts
    ]
    return low_rank(parts, pair.rows)
