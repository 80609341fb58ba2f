"""One batch through an executor, and the search for the culprit when it fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kelm.models.batch import Batch, Executor, Span
from kelm.worker.placing import Member

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    logits: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Sequence -> [its rows, vocab]; see ``wanted_rows``."""
    errors: dict[int, Exception] = field(default_factory=dict)


def wanted_rows(member: Member) -> int:
    """How many of a member's last rows need logits: all for prompt log-probabilities, one to sample from, or none."""
    sequence, end = member.sequence, member.sequence.computed + member.tokens
    if sequence.generation.scores is not None:
        return member.tokens
    return 1 if end == sequence.target else 0


def forward(executor: Executor, members: Items[Member]) -> Outcome:
    """Run the members together. When that fails, run halves, down to single ones: who fails alone is at fault, the
    others have their result (running a row again writes the same K and V to the same place). An executor with caches
    of its own can't run a row again: its members run one at a time, which is what it does anyway."""
    outcome = Outcome()
    pending = [list(members)] if executor.groups else [[member] for member in reversed(members)]
    while pending:
        part = pending.pop()
        try:
            outcome.logits.update(_run(executor, part))
        except Exception as error:
            if len(part) == 1:
                outcome.errors[part[0].sequence.id] = error
            else:
                log.warning("forward_failed members=%d error=%s", len(part), type(error).__name__)
                pending += [part[len(part) // 2 :], part[: len(part) // 2]]
    return outcome


def _run(executor: Executor, members: Items[Member]) -> dict[int, NDArray[np.float32]]:
    batch, counts = _batch(members)
    logits = executor.forward(batch)
    ends = np.cumsum(counts)
    return {
        member.sequence.id: logits[end - count : end] for member, count, end in zip(members, counts, ends, strict=True)
    }


def _batch(members: Items[Member]) -> tuple[Batch, list[int]]:
    """The batch, and how many logit rows each member has in it."""
    tokens: list[int] = []
    spans: list[Span] = []
    rows: list[int] = []
    prompts: dict[int, NDArray[np.int64]] = {}
    counts = [wanted_rows(member) for member in members]
    for member, count in zip(members, counts, strict=True):
        sequence, start = member.sequence, len(tokens)
        end = sequence.computed + member.tokens
        tokens += sequence.known[sequence.computed : end]
        rows += range(len(tokens) - count, len(tokens))
        assert sequence.tables is not None
        tables = sequence.tables.views(end)
        spans.append(Span(sequence.id, start, member.tokens, sequence.computed, tables, sequence.prompt_tokens))
        if sequence.generation.encodes and sequence.computed == 0:
            prompts[sequence.id] = np.array(sequence.generation.prompt, dtype=np.int64)
    return Batch(np.array(tokens, np.int64), tuple(spans), np.array(rows, np.int64), prompts), counts
