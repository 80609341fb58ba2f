"""A decoder of exact integers, to test everything around a model: whatever it reads decides what it says.

    a KV entry    holds its token and its position, in every layer of every group, in the arena's own blocks
    a row         mixes all entries that it may attend to, in order, as it finds them through the block tables
    logits        a hash of that mixture and the token id

A wrong block, a stale page, a wrong position or a row too few changes every later token; there is no rounding to
argue about. Shipped, so that whoever embeds the engine can test with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kelm.models.batch import Batch, KVGroup, Span
from kelm.wire.messages import Load, Loaded
from kelm.worker.opened import Opened, Progress

_U64 = np.uint64
DEFAULT_GROUPS = (KVGroup((0, 2), 1, 2), KVGroup((1,), 1, 2, window=24))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer, element by element."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


class HashModel:
    """Implements models.batch.Executor. ``fault`` is called with every batch before it runs, and may raise."""

    name = "hash"

    def __init__(self, vocab: int = 101, groups: tuple[KVGroup, ...] = DEFAULT_GROUPS) -> None:
        self.vocab = vocab
        self.groups = groups
        self.fault: Callable[[Batch], None] = lambda batch: None
        self._kv: list[NDArray[np.float32]] = []
        self._ids = np.arange(1, vocab + 1, dtype=np.uint64) * _U64(0x9E3779B97F4A7C15)

    def attach(self, views: list[NDArray[np.generic]]) -> None:
        self._kv = [view.view(np.float32) for view in views]

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """[R, vocab] in [-8, 8), and the hash's own favourite at 10."""
        self.fault(batch)
        rows = np.concatenate([self._span(batch, span) for span in batch.spans])[batch.logit_rows]
        noise = _mix(rows[:, None] + self._ids)
        logits = (noise >> _U64(40)).astype(np.float32) / np.float32(1 << 20) - np.float32(8)
        logits[np.arange(len(rows)), (rows % _U64(self.vocab)).astype(np.int64)] = 10
        return logits

    def fork(self, parent: int, child: int) -> None:
        """Nothing to do: entries are in the arena."""

    def forget(self, seq: int) -> None:
        """Nothing to do: entries are in the arena."""

    def _span(self, batch: Batch, span: Span) -> NDArray[np.uint64]:
        """[length] what each row saw."""
        tokens = batch.tokens[span.start : span.start + span.length]
        end = span.context + span.length
        rows = np.zeros(span.length, np.uint64)
        for group, kv, table in zip(self.groups, self._kv, span.tables, strict=True):
            block_tokens = kv.shape[5]
            assert len(table) == -(-end // block_tokens), "the table does not cover the span"
            positions = np.arange(span.context, end)
            slab, block = np.divmod(table[positions // block_tokens], kv.shape[1])
            for layer in range(len(group.layers)):
                kv[slab, block, layer, 0, :, positions % block_tokens, 0] = tokens[:, None]
                kv[slab, block, layer, 0, :, positions % block_tokens, 1] = positions[:, None]
                rows = _mix(rows + self._seen(group, kv[:, :, layer, 0], table, span))
        return rows

    def _seen(
        self, group: KVGroup, kv: NDArray[np.float32], table: NDArray[np.int32], span: Span
    ) -> NDArray[np.uint64]:
        """[length] the sum over the entries each row attends to; kv [slabs, per_slab, 2, block_tokens, 2]."""
        end = span.context + span.length
        start = 0 if group.window is None else max(0, span.context - group.window + 1)
        block_tokens = kv.shape[3]
        positions = np.arange(start, end)
        numbers = table[positions // block_tokens]
        assert (numbers >= 0).all(), "a row attends to a freed block"
        slab, block = np.divmod(numbers, kv.shape[1])
        entries = kv[slab, block, :, positions % block_tokens].reshape(len(positions), 4)  # K, V x token, position
        assert np.isfinite(entries).all(), "a row attends to a poisoned entry"
        mixed = positions.astype(np.uint64)
        for column in range(4):
            mixed = _mix(mixed + entries[:, column].astype(np.uint64) + _U64(column + 1))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        ends = np.arange(span.context, end) + 1 - start
        starts = np.zeros(span.length, np.int64)
        if group.window is not None:
            starts = np.maximum(0, ends + start - group.window) - start
        seen: NDArray[np.uint64] = sums[ends] - sums[np.maximum(starts, 0)]
        return seen


def open_hash_model(model: HashModel, context_tokens: int = 4096) -> Callable[[Load, Progress], Opened]:
    """An opener for the engine that answers every Load with ``model``."""

    def opener(command: Load, progress: Progress) -> Opened:
        progress(1, 1)
        loaded = Loaded(
            model=command.model,
            executor=model.name,
            kind="decoder",
            architecture="hash",
            dtype="float32",
            parameters=0,
            weight_bytes=0,
            max_context_tokens=context_tokens,
            vocab=model.vocab,
            hidden=1,
            tasks=["generate"],
        )
        return Opened(loaded, decoder=model, attach=model.attach)

    return opener
