"""A variant over a resident base, on the compiled kernels: see models/variant.py for what belongs to whom.

layers.0.out.weight     changed by a layer      packed anew: the file's with layers added in float32, rounded once
layers.0.up.weight      low-rank layers         the base's, and an op of its own behind the product (graph/build.py)
all others                                      the base's, the very same
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelm.errors import UnsupportedModel
from kelm.models.blueprint import Files, read_blueprint
from kelm.models.graph.build import LowRank
from kelm.models.graph.plan import make_plan
from kelm.models.layers import Changes, Pair, check_layers, pairs_of, read_layers
from kelm.models.layout import Slot
from kelm.models.native.decoder import NativeDecoder
from kelm.models.native.opening import PRECISIONS, NativeOutline, embedding_scale
from kelm.models.native.weights import InMemory, Progress, pack, size_bytes
from kelm.models.packing import Source
from kelm.models.tensor_index import TensorIndex
from kelm.ops.native import Pool
from kelm.store import delta
from kelm.store.tensors import TensorFile, as_float32

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LaidOver:
    """A variant that passed every check and isn't made yet. ``own_bytes``: what it takes beside its base."""

    own_bytes: int
    make: Callable[[Progress], NativeDecoder]


def lay_over(base: NativeDecoder, below: NativeOutline, files: Files, layers: Sequence[Files], pool: Pool) -> LaidOver:
    """``layers`` over ``base``, of the outline ``below``; ``files``: its own with the variant's overrides.

    Raises ModelFormatError: a layer names what isn't part of the model, or has another shape; UnsupportedModel for a
    low-rank layer on what isn't a linear, and what the kernels can't run.
    """
    found = read_blueprint(files, lambda files, quantization: TensorIndex(files, quantization=quantization))
    obstacle = NativeOutline(found, below.dtype).obstacle()
    if obstacle:
        raise UnsupportedModel(f"the base runs on the native executor, this variant can't: {obstacle}")
    changes = read_layers(layers, found.aliases)
    index = _changed(found.index, changes)
    slots, old = found.slots(), below.blueprint.slots()
    check_layers(index, slots, found.unused, changes)
    own = {
        name: slot
        for name, slot in slots.items()
        if old.get(name) != slot or not changes.tensors.keys().isdisjoint(slot.names)
    }
    source = _ChangedSource(index, own, found.spec.gated, changes)
    additions = _Additions(source, pairs_of(slots, changes))
    wanted = source.wanted(PRECISIONS[below.dtype]).values()
    own_bytes = sum(one.bytes for extent in wanted for one in extent) + additions.size_bytes
    shared = [name for name in slots if name not in own]

    def make(progress: Progress) -> NativeDecoder:
        mine = pack(source, PRECISIONS[below.dtype], pool, progress)
        weights = InMemory(
            {name: base.weights.matrices[name] for name in shared if name in base.weights.matrices} | mine.matrices,
            {name: base.weights.vectors[name] for name in shared if name in base.weights.vectors} | mine.vectors,
        )
        weights.vectors.update(additions.vectors())
        plan = make_plan(
            found.spec,
            embedding_scale=embedding_scale(found.spec.embedding_scale, below.dtype),
            additions=additions.ops(),
        )
        info = replace(found.info(below.dtype, own_bytes), shared_bytes=size_bytes(base.weights, shared))
        return NativeDecoder(found.spec, plan, weights, info, pool)

    return LaidOver(own_bytes, make)


def _changed(index: TensorIndex, changes: Changes) -> TensorIndex:
    """With the whole tensors of the layers in place of the checkpoint's."""
    found = copy.copy(index)
    found._files = {**index.files, **changes.files}
    found.entries = {**index.entries, **changes.entries}
    return found


@dataclass(frozen=True, slots=True)
class _ChangedSource(Source):
    """A checkpoint as layers make it."""

    changes: Changes = field(default_factory=Changes)

    def _parts(self, slot: Slot) -> Iterator[tuple[NDArray[Any], str]]:
        for name in slot.names:
            entry = self.index.entries[name]
            array, dtype = self._array(entry), entry.dtype
            for change in self.changes.tensors.get(name, ()):
                if change.kind == "tensors":
                    continue  # the index has it
                made = np.array(as_float32(array, dtype), np.float32)
                file = self.layer(change.file)
                if change.kind == "dense":
                    made += file.float32(change.name + delta.DENSE)
                else:
                    made.reshape(-1)[file.array(change.name + delta.INDICES)] += file.float32(
                        change.name + delta.VALUES
                    )
                array, dtype = made, "F32"
            yield array, dtype

    def layer(self, name: str) -> TensorFile:
        if name not in self._open:
            self._open[name] = TensorFile(self.changes.files[name], name)
        return self._open[name]

    def arranged(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows for the outputs of a slot, in the order of the packed matrix."""
        return self._arranged(name, rows, 0)


@dataclass(frozen=True, slots=True)
class _Additions:
    """The low-rank layers of a variant, by linear (``layers.0.qkv``)."""

    source: _ChangedSource
    pairs: Mapping[str, Pair]

    @property
    def size_bytes(self) -> int:
        return 4 * sum(one.rank * (one.inputs + one.width) for ops in self.ops().values() for one in ops)

    def ops(self) -> dict[str, list[LowRank]]:
        return {name: [*self._ops(name, pair)] for name, pair in self.pairs.items()}

    def _ops(self, name: str, pair: Pair) -> Iterator[LowRank]:
        for number, (row, file, part) in enumerate(pair.parts):
            rank, inputs = file.tensors[part.a].shape
            whole = self.source._by_turns(f"{name}.weight")
            width = len(self._rows(name, pair, number)) if whole else file.tensors[part.b].shape[0]
            yield LowRank(number, rank, inputs, 0 if whole else row, width)

    def vectors(self) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for name, pair in self.pairs.items():
            for number, (_, file, part) in enumerate(pair.parts):
                found[f"{name}.low_rank_a.{number}"] = file.float32(part.a)
                found[f"{name}.low_rank_b.{number}"] = np.ascontiguousarray(self._rows(name, pair, number).T)
        return found

    def _rows(self, name: str, pair: Pair, number: int) -> Floats:
        """B times its scale [outputs, rank]; where gate and up lie by turns, among zeros for all outputs."""
        row, file, part = pair.parts[number]
        made = file.float32(part.b) * np.float32(part.scale)
        if not self.source._by_turns(f"{name}.weight"):
            return made
        wide = np.zeros((pair.rows, made.shape[1]), np.float32)
        wide[row : row + len(made)] = made
        rows: Floats = self.source.arranged(f"{name}.weight", wide)
        return rows
