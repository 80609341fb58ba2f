"""Weights packed in memory, for as long as there is no image of them (images.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kelm.models.packing import VECTOR, Precision, Source
from kelm.ops import packed
from kelm.ops.native import Pool
from kelm.ops.packed import Packed
from kelm.store.images import TensorPlace

Progress = Callable[[int, int], None]


class Weights(Protocol):
    """Slots by name (layout.py), arranged as packing.py says."""

    @property
    def matrices(self) -> Mapping[str, Packed]: ...

    @property
    def vectors(self) -> Mapping[str, NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """As models/images.Image."""

    matrices: dict[str, Packed] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def size_bytes(weights: Weights, names: Collection[str]) -> int:
    """Of some of them."""
    matrices = [weights.matrices[name] for name in names if name in weights.matrices]
    vectors = [weights.vectors[name] for name in names if name in weights.vectors]
    return sum(one.data.nbytes for one in matrices) + sum(one.nbytes for one in vectors)


def pack(source: Source, precision: Precision, pool: Pool, progress: Progress) -> InMemory:
    """Raises UnsupportedModel where a weight does not fit the precision."""
    wanted = [one for extent in source.wanted(precision).values() for one in extent]
    total, done, made = sum(one.bytes for one in wanted), 0, InMemory()
    for one in wanted:
        data = packed.empty(one.bytes)
        source.pack(TensorPlace(one.name, one.kind, one.shape, 0, one.bytes), pool, data)
        if one.kind == VECTOR:
            made.vectors[one.name] = data.view(np.float32).reshape(one.shape)
        else:
            outputs, inputs = one.shape
            made.matrices[one.name] = Packed(data, outputs, inputs, one.kind)  # type: ignore[arg-type]
        done += one.bytes
        progress(done, total)
    return made
