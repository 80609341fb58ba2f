"""What a step hands to an executor: plain numpy and tuples, no torch (the native path imports this too).

    tokens      t0 t1 t2 t3 | u0 | v0 v1        flattened rows of all sequences
    spans       [seq 7: rows 0..4, context 16]  [seq 9: row 4, context 130]  [seq 3: rows 5..7, context 0]

A span's rows are its sequence's tokens at positions context, context + 1, ... . Their K and V are written to the
arena first, then each row attends to every position <= its own (and inside the window, for a window group).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers that share block tables: same kind, same K/V shape.

    A block holds ``block_tokens`` positions of every layer of the group; in the arena a group's blocks are
    [layers, kv_heads, 2 (K, V), block_tokens, head_dim].
    """

    layers: tuple[int, ...]
    kv_heads: int
    head_dim: int
    window: int | None = None
    """None: full attention. w: a row at position p sees positions p - w + 1 ... p."""


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one sequence in this step."""

    seq: int
    start: int
    """First row in the flattened batch."""
    length: int
    context: int
    """Positions computed before this step; the first row's position."""
    tables: tuple[NDArray[np.int32], ...]
    """For each KV group: block number at index position // block_tokens; -1 where a window freed it.
    Covers context + length positions."""
    prompt: int = 0
    """Tokens of its prompt; executors that keep their own caches replay prompt and answer in the same calls."""


@dataclass(frozen=True, slots=True)
class Batch:
    tokens: NDArray[np.int64]
    """[T]"""
    spans: tuple[Span, ...]
    logit_rows: NDArray[np.int64]
    """[R] flattened rows whose logits are wanted."""
    prompts: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """Only for encoder-decoders: the encoder's input of a sequence, in its first step."""


class Executor(Protocol):
    """Runs one resident decoder. ``native``, ``torch`` and ``fallback`` are the implementations."""

    name: str
    groups: tuple[KVGroup, ...]
    """Empty for an executor that keeps its own caches (fallback)."""

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """[R, vocab] logits for ``batch.logit_rows``. A row's bits depend on its own sequence only."""
        ...

    def fork(self, parent: int, child: int) -> None:
        """A sequence was forked; executors whose caches are in the arena need do nothing."""
        ...

    def forget(self, seq: int) -> None:
        """A sequence ended or lost its blocks."""
        ...
