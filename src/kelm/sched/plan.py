"""The step plan: who gets how many tokens.

There is no prefill phase and no decode phase. A sequence has tokens that are known and a number of them that are
computed; a step gives it tokens until computed catches up with known, which is when its next token is sampled.
Chunked prompts, prefix hits, recomputation after preemption and resubmission after a crash are all this one case.

Rows go by priority, then to the tenant that is furthest behind, then by arrival (shares.py). Who holds blocks and
gets no row is parked: it keeps them and goes on later. Nobody who could run waits while there is a row for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from kelm.sched.shares import Line, Share

LATER_PRIORITY = 8
"""One of so many of a step's tokens may be taken back from a prompt for rows of a later priority."""

Wait = Literal["row", "tokens", "blocks"]
"""What a candidate without a grant lacks: all rows are taken, all tokens are, or its known tokens do not fit."""


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
    priority: int = 0
    """Lower is earlier."""
    share: int = 0
    """Its tenant's."""


@dataclass(frozen=True, slots=True)
class Running:
    """Sequences of one priority, of any model, that hold blocks and can run."""

    priority: int
    sequences: int
    held_bytes: int
    short_bytes: int
    """What they will soon want beside them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one step may use."""

    tokens: int
    sequences: int
    logit_rows: int
    """Most tokens of ``every_row`` sequences: their logits are rows of the vocabulary's size."""
    free_bytes: int
    """Of KV."""
    running: tuple[Running, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    seq: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    grants: list[Grant]
    """In the order in which blocks are to be given."""
    waits: dict[int, Wait]
    """The other candidates."""


def plan(candidates: Iterable[Candidate], budget: Budget, shares: Mapping[int, Share] | None = None) -> Plan:
    """Rows in the order of the line; tokens to those one token behind first (they stream to somebody), the rest in the
    order of the line. By that no tenant gets further ahead of the others than a step's tokens.

    A sequence without blocks is admitted only when all of its known tokens fit beside those who run and are not
    behind it in priority, else it would be preempted at once and computed twice; the ones behind it wait with it, so
    that it isn't starved.
    """
    line: Line[Candidate] = Line(candidates, shares or {})
    step = _Step(budget, line)
    waits: dict[int, Wait] = {}
    for candidate in line:
        wait = step.offer(candidate)
        if wait is None:
            line.charge(candidate.share, step.picks[-1].tokens)
        else:
            waits[candidate.seq] = wait
    return Plan([Grant(pick.candidate.seq, pick.tokens) for pick in step.picks], waits)


@dataclass(slots=True)
class _Pick:
    candidate: Candidate
    tokens: int


@dataclass(slots=True)
class _Step:
    """A step that fills up."""

    budget: Budget
    line: Line[Candidate]
    picks: list[_Pick] = field(default_factory=list)
    _tokens: int = 0
    _logit_rows: int = 0
    _taken_bytes: int = 0
    _admitted: int = 0
    _blocked: bool = False
    _taken_back: int = 0
    """Tokens, for rows of a later priority."""

    def offer(self, candidate: Candidate) -> Wait | None:
        """Take it in, else say what it lacks."""
        if len(self.picks) == self.budget.sequences:
            return "row"
        if candidate.need_bytes and not self._has_room(candidate):
            return "blocks"
        tokens = self._claim(candidate)
        if tokens == 0:
            return "tokens"
        if candidate.need_bytes:
            self._taken_bytes += candidate.need_bytes
            self._admitted += 1
        self._tokens += tokens
        self._logit_rows += tokens if candidate.every_row else 0
        self.picks.append(_Pick(candidate, tokens))
        return None

    def _has_room(self, candidate: Candidate) -> bool:
        """Whether its blocks fit. Those behind it in priority would give way; where nobody else is left, it is
        admitted whatever it needs."""
        before = [one for one in self.budget.running if one.priority <= candidate.priority]
        behind = [one for one in self.budget.running if one.priority > candidate.priority]
        free = self.budget.free_bytes - self._taken_bytes
        free += sum(one.held_bytes for one in behind) - sum(one.short_bytes for one in before)
        alone = not self._admitted and not before
        self._blocked = self._blocked or (candidate.need_bytes > free and not alone)
        return not self._blocked

    def _claim(self, candidate: Candidate) -> int:
        wanted = candidate.pending
        if candidate.every_row:
            wanted = min(wanted, self.budget.logit_rows - self._logit_rows)
        tokens = min(wanted, self.budget.tokens - self._tokens)
        return 1 if tokens == 0 and candidate.pending == 1 and wanted and self._take_back(candidate) else tokens

    def _take_back(self, candidate: Candidate) -> bool:
        """One token of the last chunk of a prompt that may lose some, for a row that is one token behind."""
        for pick in reversed(self.picks):
            if pick.tokens > 1 and self._yields(pick.candidate, candidate):
                self._taken_back += candidate.priority > pick.candidate.priority
                pick.tokens -= 1
                self._tokens -= 1
                return True
        return False

    def _yields(self, prompt: Candidate, row: Candidate) -> bool:
        if row.priority > prompt.priority and self._taken_back >= self.budget.tokens // LATER_PRIORITY:
            return False
        own = self.line.stand(row.share)
        return row.share == prompt.share or own.counter - self.line.least() <= self.budget.tokens / own.weight
