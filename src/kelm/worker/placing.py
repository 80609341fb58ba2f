"""Who is in the next step, with blocks for every token: the plan of sched/ carried out on the block pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kelm.memory.tables import Tables
from kelm.sched.plan import Budget, Candidate, plan
from kelm.sched.turns import Holder, victim
from kelm.worker.residency import Residency, Resident
from kelm.worker.sequence import Sequence
from kelm.worker.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Member:
    """A sequence in a step and how many of its tokens are computed."""

    sequence: Sequence
    tokens: int


class Placer:
    """``preempt`` takes a sequence's blocks away."""

    def __init__(self, residency: Residency, settings: EngineSettings, preempt: Callable[[Sequence], None]) -> None:
        self._residency = residency
        self._settings = settings
        self._preempt = preempt

    def place(self, resident: Resident) -> list[Member]:
        """The members of a step of this model; empty when nobody can run now."""
        candidates = list(self._candidates(resident))
        if not candidates:
            return []
        members: dict[int, Member] = {}
        for grant in plan(candidates, self._budget(resident)):
            sequence = resident.sequences[grant.seq]
            if sequence.tables is None:
                self._admit(resident, sequence)
            tokens = min(grant.tokens, sequence.target - sequence.computed)
            if self._make_room(sequence, sequence.computed + tokens, members):
                members[sequence.id] = Member(sequence, tokens)
        return list(members.values())

    def _candidates(self, resident: Resident) -> Iterator[Candidate]:
        """Those who could run; of those without blocks, no more than could be admitted at once."""
        waiting = 0
        for sequence in resident.sequences.values():
            pending = sequence.target - sequence.computed
            if pending <= 0 or sequence.generation.paused:
                continue
            need_bytes = 0
            if sequence.tables is None:
                waiting += 1
                if waiting > self._settings.max_num_seqs:
                    continue
                need_bytes = resident.most_bytes(len(sequence.known), self._settings.step_tokens)
            yield Candidate(sequence.id, pending, need_bytes, sequence.generation.scores is not None)

    def _budget(self, resident: Resident) -> Budget:
        block_bytes = sum(layout.block_bytes for layout in resident.layouts)
        holders = self._holders()
        running = [sequence for sequence in holders if not sequence.generation.paused]
        paused_blocks = sum(s.tables.blocks for s in holders if s.generation.paused and s.tables is not None)
        return Budget(
            tokens=self._settings.step_tokens,
            sequences=self._settings.max_num_seqs,
            logit_rows=resident.logit_rows,
            free_bytes=self._residency.pool.free_bytes() + paused_blocks * block_bytes,
            reserve_bytes=sum(self._short(sequence) for sequence in running),
            residents=len(running),
        )

    def _short(self, sequence: Sequence) -> int:
        """Bytes that a running sequence will soon want: for the rest of its known tokens, a block at least."""
        layouts = self._residency.get(sequence.generation.model).layouts
        assert sequence.tables is not None
        rest = layouts[0].blocks_for(len(sequence.known)) - sequence.tables.blocks
        return max(1, rest) * sum(layout.block_bytes for layout in layouts)

    def _holders(self) -> list[Sequence]:
        return [
            sequence
            for resident in self._residency.models.values()
            for sequence in resident.sequences.values()
            if sequence.tables is not None and sequence.tables.blocks
        ]

    def _admit(self, resident: Resident, sequence: Sequence) -> None:
        """Give it tables, with the blocks that are computed already. The last token is computed in any case: its
        logits are wanted; so are all of them for prompt log-probabilities."""
        sequence.tables = Tables(self._residency.pool, resident.groups)
        generation = sequence.generation
        most = sequence.target - 1 if generation.scores is None else 0
        sequence.computed = resident.prefix.adopt(sequence.tables, generation.salt, sequence.known, most)
        sequence.seen = max(sequence.seen, sequence.computed)

    def _make_room(self, sequence: Sequence, end: int, members: dict[int, Member]) -> bool:
        """Blocks up to position ``end``; under pressure others lose theirs, members of this step included."""
        assert sequence.tables is not None
        while not sequence.tables.grow(sequence.computed, end):
            holders = {holder.id: holder for holder in self._holders()}
            worst = victim((Holder(one.id, one.generation.paused) for one in holders.values()), sequence.id)
            if worst is None:
                return False
            members.pop(worst, None)
            self._preempt(holders[worst])
        return True
