"""A decoder on the compiled kernels (ops/step.py), driven by the plan of its spec (models/graph/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kelm.models.batch import Batch, KVGroup
from kelm.models.graph.build import whole_head
from kelm.models.graph.plan import Plan
from kelm.models.info import ModelInfo
from kelm.models.native.weights import Weights
from kelm.models.spec import DecoderSpec
from kelm.ops.native import Pool
from kelm.ops.step import BLOCK_TOKENS, KvPlace, Ops, Step

Floats = NDArray[np.float32]


class NativeDecoder:
    """After ``attach`` it is an Executor."""

    name = "native"

    def __init__(self, spec: DecoderSpec, plan: Plan, weights: Weights, info: ModelInfo, pool: Pool) -> None:
        self.spec, self.info, self.weights = spec, info, weights
        self.groups = kv_groups(spec)
        ops = Ops(plan.ops, plan.scalars, plan.buffers, plan.matrices, plan.vectors)
        self._step = Step(pool, ops, weights.matrices, {**weights.vectors, **plan.constants})

    def attach(self, kv: Sequence[NDArray[np.generic]]) -> None:
        """Give each KV group its blocks, as worker/arena.py makes them. What lies in one is the kernels' own
        (csrc/attention.hpp)."""
        self._step.attach([_arena(view) for view in kv], [_place(*pair) for pair in zip(kv, self.groups, strict=True)])

    def forward(self, batch: Batch) -> Floats:
        """[R, vocab] logits for ``batch.logit_rows``."""
        logits = np.zeros((len(batch.logit_rows), self.spec.vocab), np.float32)
        if len(batch.tokens):
            spans = np.array([(s.start, s.length, s.context) for s in batch.spans], np.int64)
            tables = [[s.tables[g] for s in batch.spans] for g in range(len(self.groups))]
            self._step.run(batch.tokens, spans, tables, batch.logit_rows, logits)
        return logits

    def fork(self, parent: int, child: int) -> None:
        """Nothing to do: caches are in the arena."""

    def forget(self, seq: int) -> None:
        """Nothing to do: caches are in the arena."""


def kv_groups(spec: DecoderSpec) -> tuple[KVGroup, ...]:
    """As the kernels keep them: heads in whole tiles."""
    return tuple(replace(group, head_dim=whole_head(group.head_dim)) for group in spec.kv_groups())


def _arena(view: NDArray[np.generic]) -> NDArray[np.uint8]:
    """All bytes of the arena that a group's view lies in."""
    items = view.shape[0] * view.strides[0] // view.itemsize
    return np.lib.stride_tricks.as_strided(view, (items,), (view.itemsize,)).view(np.uint8)


def _place(view: NDArray[np.generic], group: KVGroup) -> KvPlace:
    slabs, per_slab, layers, kv_heads, _, block_tokens, head_dim = view.shape
    assert block_tokens == BLOCK_TOKENS, f"blocks of {block_tokens} positions"
    return KvPlace(
        slab_bytes=view.strides[0],
        block_bytes=view.strides[1],
        per_slab=per_slab,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        item_bytes=view.itemsize,
        blocks=slabs * per_slab,
        window=group.window,
    )
