"""After the forward pass: what was computed becomes known tokens, forks and ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kelm.wire.messages import Move, PromptLogprobs, Tokens
from kelm.worker.account import Account
from kelm.worker.forward import Outcome
from kelm.worker.logprobs import score
from kelm.worker.placing import Member
from kelm.worker.residency import Resident
from kelm.worker.roster import Roster
from kelm.worker.sampler import choose
from kelm.worker.sequence import Generation, Sequence


@dataclass(slots=True)
class Harvest:
    """What a step brought."""

    tokens: list[Tokens] = field(default_factory=list)
    prompts: list[PromptLogprobs] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)
    """By process."""
    moves: list[Move] = field(default_factory=list)
    rows: int = 0
    """Sequences that were in it."""


class Advance:
    """``step`` advances the members of one step."""

    def __init__(self, roster: Roster, account: Account) -> None:
        self._roster = roster
        self._account = account

    def step(self, resident: Resident, members: Iterable[Member], outcome: Outcome) -> Harvest:
        """A fault, in the forward pass or here, ends its own process and no other."""
        harvest = Harvest()
        for member in members:
            generation = member.sequence.generation
            try:
                if member.sequence.id in outcome.errors:
                    raise outcome.errors[member.sequence.id]
                if generation.pid not in harvest.errors:
                    self._member(resident, member, outcome.logits[member.sequence.id], harvest)
            except Exception as error:
                harvest.errors[generation.pid] = error
        harvest.tokens = [one for one in harvest.tokens if one.pid not in harvest.errors]
        harvest.prompts = [one for one in harvest.prompts if one.pid not in harvest.errors]
        return harvest

    def _member(self, resident: Resident, member: Member, rows: NDArray[np.float32], harvest: Harvest) -> None:
        sequence, generation = member.sequence, member.sequence.generation
        start, end = sequence.computed, sequence.computed + member.tokens
        self._bill(sequence, start, end)
        arrived = end == sequence.target
        sequence.computed, sequence.seen = end, max(end, sequence.seen)
        if sequence.tables is not None:
            resident.prefix.extend(sequence.tables, sequence.known, end)
        if generation.scores is not None:
            _score(generation, start, rows)
            if arrived:
                harvest.prompts.append(PromptLogprobs(generation.pid, generation.scores))
                generation.scores = None
        if not arrived:
            return
        for one in self._branches(sequence):
            if len(one.known) == end:
                self._sample(resident, one, rows[-1], harvest)

    def _bill(self, sequence: Sequence, start: int, end: int) -> None:
        """A tenant is charged once for each token, whoever is to blame that it is computed twice."""
        again = max(0, min(end, sequence.seen) - start)
        self._account.recomputed_tokens += again
        self._roster.bill.again(sequence.generation.pid, again)
        self._roster.bill.charge(sequence.generation.share, max(0, end - max(start, sequence.charged)))
        sequence.charged = max(end, sequence.charged)

    def _branches(self, sequence: Sequence) -> list[Sequence]:
        """The sequence; with all other choices, forked from it, when it led them to the prompt's end."""
        generation = sequence.generation
        if generation.leader is not sequence:
            return [sequence]
        generation.leader = None
        for choice in generation.choices.values():
            if choice is not sequence:
                self._roster.fork(sequence, choice)
        return list(generation.choices.values())

    def _sample(self, resident: Resident, sequence: Sequence, logits: NDArray[np.float32], harvest: Harvest) -> None:
        generation, context = sequence.generation, resident.loaded.max_context_tokens
        tokens = Tokens(generation.pid, sequence.choice, [], finish=sequence.ending(context))
        if tokens.finish is None:
            token = choose(logits, sequence)
            sequence.accept(token)
            top = generation.sampling.logprobs
            reason = sequence.ending(context)
            tokens = Tokens(
                generation.pid,
                sequence.choice,
                [token],
                None if top is None else [score(logits, token, top)],
                reason,
                token if reason == "stop" else None,
            )
            self._account.generated_tokens += 1
        harvest.tokens.append(tokens)
        if tokens.finish is not None:
            self._roster.end(sequence)


def _score(generation: Generation, start: int, rows: NDArray[np.float32]) -> None:
    """The row at position i says how likely the token at i + 1 was."""
    assert generation.scores is not None
    top = generation.sampling.prompt_logprobs or 0
    for position, row in enumerate(rows, start + 1):
        if position < len(generation.prompt):
            generation.scores[position] = score(row, generation.prompt[position], top)
