"""The step plan, first come first served.

There is no prefill phase and no decode phase. A sequence has tokens that are known and a number of them that are
computed; a step gives it tokens until computed catches up with known, which is when its next token is sampled.
Chunked prompts, prefix hits, recomputation after preemption and resubmission after a crash are all this one case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence that could run."""

    seq: int
    """Ids grow with arrival."""
    pending: int
    """Tokens known and not computed, at least 1."""
    need_bytes: int = 0
    """What blocks for all of its known tokens take, for a sequence that holds none yet; 0 for one that does."""
    every_row: bool = False
    """Wants logits at each of its tokens (prompt log-probabilities), not at the last one only."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one step may use."""

    tokens: int
    sequences: int
    logit_rows: int
    """Most tokens of ``every_row`` sequences: their logits are rows of the vocabulary's size."""
    free_bytes: int
    """Of KV; admission leaves ``reserve_bytes`` of them to those who run already."""
    reserve_bytes: int = 0
    residents: int = 0
    """Sequences of any model that hold blocks and can run. While there is none, the first is always admitted."""


@dataclass(frozen=True, slots=True)
class Grant:
    seq: int
    tokens: int


def plan(candidates: Iterable[Candidate], budget: Budget) -> list[Grant]:
    """Who gets how many tokens: those one token behind first (they stream to somebody), then by arrival.

    A sequence without blocks is admitted only when all of its known tokens fit beside those who run, else it would
    be preempted at once and computed twice; the ones behind it wait with it, so that it isn't starved.
    """
    grants: list[Grant] = []
    tokens, rows, free = budget.tokens, budget.logit_rows, budget.free_bytes - budget.reserve_bytes
    residents, blocked = budget.residents, False
    for candidate in sorted(candidates, key=lambda c: (c.pending > 1, c.seq)):
        if tokens == 0 or len(grants) == budget.sequences:
            break
        given = min(candidate.pending, tokens, rows if candidate.every_row else tokens)
        if candidate.need_bytes:
            blocked = blocked or (candidate.need_bytes > free and residents > 0)
            if blocked:
                continue
        if given == 0:
            continue
        if candidate.need_bytes:
            free -= candidate.need_bytes
            residents += 1
        tokens -= given
        rows -= given if candidate.every_row else 0
        grants.append(Grant(candidate.seq, given))
    return grants
