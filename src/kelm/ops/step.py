"""A whole step of a decoder in one call: the door to csrc/step.hpp. The GIL is released while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelm.ops import native
from kelm.ops.packed import FORMATS, Packed

BLOCK_TOKENS = 16
"""Of a KV block (csrc/attention.hpp)."""
HEAD_DIM_MOST = 512

KV_ITEM_BYTES = {"float32": 4, "bfloat16": 2}
_KV_TYPES = {4: 0, 2: 1}

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ops:
    """A plan as numbers: rows as module_step.cpp reads them, and the names that stand for weights."""

    ops: NDArray[np.int64]
    scalars: Floats
    buffers: NDArray[np.int64]
    matrices: tuple[str, ...]
    vectors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KvPlace:
    """A KV group's blocks in the arena; ``window``: None, or positions that a row sees."""

    slab_bytes: int
    block_bytes: int
    per_slab: int
    layers: int
    kv_heads: int
    head_dim: int
    item_bytes: int
    blocks: int
    window: int | None


class Step:
    """A decoder that can run. ``pool``: of the whole process."""

    def __init__(
        self, pool: native.Pool, ops: Ops, matrices: Mapping[str, Packed], vectors: Mapping[str, Floats]
    ) -> None:
        """Raises ValueError where a plan and its weights do not fit together."""
        self._pool, self._isa = pool, native.ISAS.index(native.isa())
        self._weights = [matrices[name] for name in ops.matrices]
        # Flat, for the kernels count in floats; a view keeps the map that it lies in.
        self._vectors = [np.ascontiguousarray(vectors[name], np.float32).reshape(-1) for name in ops.vectors]
        shapes = [[m.outputs, m.inputs, FORMATS.index(m.format)] for m in self._weights]
        self._step: Any = native.loaded().Step(
            ops.ops,
            ops.scalars,
            ops.buffers,
            np.array(shapes, np.int64).reshape(-1, 3),
            [m.data for m in self._weights],
            self._vectors,
        )
        self._arenas: list[NDArray[np.uint8]] = []
        self._windows = self._blocks = np.zeros(0, np.int64)

    def attach(self, arenas: Sequence[NDArray[np.uint8]], places: Sequence[KvPlace]) -> None:
        """``arenas``: the memory that each group's blocks lie in.

        Raises ValueError where a group is not what the kernels read.
        """
        rows = [
            [
                p.slab_bytes,
                p.block_bytes,
                p.per_slab,
                p.layers,
                p.kv_heads,
                p.head_dim,
                _KV_TYPES[p.item_bytes],
                p.blocks,
            ]
            for p in places
        ]
        self._step.attach(list(arenas), np.array(rows, np.int64).reshape(-1, 8))
        self._arenas = list(arenas)
        self._windows = np.array([p.window or 0 for p in places], np.int64)
        self._blocks = np.array([p.blocks for p in places], np.int64)

    def run(
        self,
        tokens: NDArray[np.int64],
        spans: NDArray[np.int64],
        tables: Sequence[Sequence[NDArray[np.int32]]],
        picked: NDArray[np.int64],
        logits: Floats,
    ) -> None:
        """Write ``logits`` [len(picked), vocab] of these rows.

        Args:
            spans: [sequences, 3]: first row, rows, context of each, one after another.
            tables: for each KV group and span, its block table.

        Raises:
            ValueError: a token, a row or a block that is not there.
            MemoryError: no memory for the activations.
        """
        self._step.run(self._pool, self._isa, tokens, spans, tables, self._windows, self._blocks, picked, logits)
