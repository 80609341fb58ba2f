"""A sequence: one row of tokens. A generation: the process that it belongs to, with its n choices.

known      p0 p1 p2 p3 p4 | g0 g1         prompt, then what was generated
computed   ^^^^^^^^^^^ 4                  K and V are in blocks; never more than len(known)
boundary   5                              the leader's target: there the other choices fork from it
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kelm.memory.tables import Tables
from kelm.wire.messages import FinishReason, Move, Submit, TokenLogprobs
from kelm.worker import penalties


class GrammarState(Protocol):
    """What a grammar allows next, after the tokens accepted so far."""

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set what does not fit to -inf, in place."""
        ...

    def accept(self, token_id: int) -> None: ...


class Sequence:
    """One choice of a generation. Ids grow with arrival and are never used again."""

    __slots__ = (
        "charged", "choice", "computed", "counts", "generation", "grammar", "id", "known", "prompt_tokens", "seen",
        "tables",
    )  # fmt: skip

    def __init__(self, seq: int, generation: Generation, choice: int, generated: list[int]) -> None:
        self.id = seq
        self.generation = generation
        self.choice = choice
        self.known = generation.opening + generated
        self.prompt_tokens = len(generation.opening)
        self.computed = 0
        self.seen = 0
        """The most that was ever computed: below it, computing is recomputing."""
        self.charged = len(self.known) - 1 if generated else 0
        """Tokens that its tenant was charged for: what a worker computed before it died is not charged again."""
        self.tables: Tables | None = None
        """None: holds nothing (waiting, preempted, or before its fork)."""
        self.grammar: GrammarState | None = None
        self.counts: penalties.TokenCounts | None = None
        if penalties.needed(generation.sampling):
            self.counts = penalties.TokenCounts(generation.opening, generated)

    @property
    def generated(self) -> int:
        return len(self.known) - self.prompt_tokens

    @property
    def target(self) -> int:
        """How many tokens it may compute for now; nothing (0) while it waits for its fork."""
        leader = self.generation.leader
        if leader is None:
            return len(self.known)
        return self.prompt_tokens if leader is self else 0

    def accept(self, token: int) -> None:
        """A sampled token becomes known."""
        self.known.append(token)
        if self.counts is not None:
            self.counts.add(token)
        if self.grammar is not None:
            self.grammar.accept(token)

    def ending(self, context_tokens: int) -> FinishReason | None:
        """Why it is over; None while it isn't."""
        sampling = self.generation.sampling
        if self.generated and self.known[-1] in sampling.stop_token_ids:
            return "stop"
        if self.generated >= sampling.max_tokens or len(self.known) >= context_tokens:
            return "length"
        return None


class Generation:
    """A process: the choices that still run, and what they share."""

    def __init__(self, submit: Submit, decoder_start: int | None = None) -> None:
        self.pid = submit.pid
        self.model = submit.model
        self.prompt = submit.prompt
        self.sampling = submit.sampling
        self.salt = submit.salt
        self.priority = submit.priority
        self.share = submit.share
        self.encodes = decoder_start is not None
        """The prompt is an encoder's input, and the answer starts from ``decoder_start``."""
        self.opening = submit.prompt if decoder_start is None else [decoder_start]
        """What every choice's tokens begin with."""
        self.choices: dict[int, Sequence] = {}
        self.leader: Sequence | None = None
        """Computes the prompt for all; None when it is computed, or when there is one choice only."""
        self.paused = False
        self.started = False
        self.told: Move | None = None
        """Where the daemon believes it to be."""
        self.scores: list[TokenLogprobs | None] | None = None
        """Prompt log-probabilities on their way; None when they aren't wanted or were reported."""
        if submit.sampling.prompt_logprobs is not None and not any(submit.generated):
            self.scores = [None] * len(submit.prompt)

    def add(self, sequence: Sequence) -> None:
        """A choice to run. The first of several leads."""
        self.choices[sequence.choice] = sequence
        self.leader = next(iter(self.choices.values())) if len(self.choices) > 1 else None
