"""Who is in the next step, with blocks for every token: the plan of sched/ carried out on the block pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from kelm.memory.tables import Tables
from kelm.sched.plan import Budget, Candidate, Grant, Running, Wait, plan
from kelm.sched.shares import Share
from kelm.sched.turns import Holder, victim
from kelm.worker.residency import Residency, Resident
from kelm.worker.sequence import Sequence
from kelm.worker.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Member:
    """A sequence in a step and how many of its tokens are computed."""

    sequence: Sequence
    tokens: int


@dataclass(slots=True)
class Placement:
    """What became of a model's candidates."""

    held: set[int] = field(default_factory=set)
    """Who held blocks when they were looked at."""
    members: dict[int, Member] = field(default_factory=dict)
    waits: dict[int, Wait] = field(default_factory=dict)
    """Those who got no row, lost theirs to another, or found no blocks."""
    waiting: set[int] = field(default_factory=set)
    """Tenants of those, and of others behind them."""

    def fails(self, seq: int) -> None:
        """It goes without: the pool is dry, or it gave its blocks to an earlier one."""
        self.members.pop(seq, None)
        self.waits[seq] = "blocks"


class Placer:
    """``shares``: how tenants stand, kept by others. ``preempt`` takes a sequence's blocks away."""

    def __init__(
        self,
        residency: Residency,
        settings: EngineSettings,
        shares: Mapping[int, Share],
        preempt: Callable[[Sequence], None],
    ) -> None:
        self._residency = residency
        self._settings = settings
        self._shares = shares
        self._preempt = preempt

    def place(self, resident: Resident) -> Placement:
        """The members of a step of this model; none when nobody can run now.

        Rows may go to sequences that find no blocks while earlier ones, who could take some, have no row. Then those
        get one; so whoever is first by priority and arrival is never kept from running for long.
        """
        placement = Placement()
        candidates = {one.seq: one for one in self._candidates(resident, placement)}
        while candidates and not placement.members:
            planned = plan(candidates.values(), self._budget(resident), self._shares)
            placement.waits |= planned.waits
            for grant in planned.grants:
                del candidates[grant.seq]
                self._carry_out(resident, grant, placement)
            if not planned.grants:
                break
        placement.waiting |= {resident.sequences[seq].generation.share for seq in placement.waits}
        return placement

    def _carry_out(self, resident: Resident, grant: Grant, placement: Placement) -> None:
        sequence = resident.sequences[grant.seq]
        if sequence.tables is None and sequence.id in placement.held:  # an earlier one has just taken its blocks
            placement.fails(sequence.id)
            return
        if sequence.tables is None:
            self._admit(resident, sequence)
        tokens = min(grant.tokens, sequence.target - sequence.computed)
        if self._make_room(sequence, sequence.computed + tokens, placement):
            placement.members[sequence.id] = Member(sequence, tokens)
            placement.waits.pop(sequence.id, None)
        else:
            placement.fails(sequence.id)

    def _candidates(self, resident: Resident, placement: Placement) -> Iterator[Candidate]:
        """Those who could run; of those without blocks, no more of each tenant and priority than could be admitted."""
        waiting: dict[tuple[int, int], int] = {}
        for sequence in resident.sequences.values():
            generation = sequence.generation
            pending = sequence.target - sequence.computed
            if pending <= 0 or generation.paused:
                continue
            need_bytes = 0
            if sequence.tables is None:
                lane = generation.priority, generation.share
                waiting[lane] = waiting.get(lane, 0) + 1
                if waiting[lane] > self._settings.max_num_seqs:
                    placement.waiting.add(generation.share)
                    continue
                need_bytes = resident.most_bytes(len(sequence.known), self._settings.step_tokens)
            else:
                placement.held.add(sequence.id)
            every_row = generation.scores is not None
            yield Candidate(sequence.id, pending, need_bytes, every_row, generation.priority, generation.share)

    def _budget(self, resident: Resident) -> Budget:
        holders = self._holders()
        running: dict[int, list[Sequence]] = {}
        for sequence in holders:
            if not sequence.generation.paused:
                running.setdefault(sequence.generation.priority, []).append(sequence)
        paused_bytes = sum(self._held(sequence) for sequence in holders if sequence.generation.paused)
        return Budget(
            tokens=self._settings.step_tokens,
            sequences=self._settings.max_num_seqs,
            logit_rows=resident.logit_rows,
            free_bytes=self._residency.pool.free_bytes() + paused_bytes,
            running=tuple(
                Running(priority, len(those), sum(map(self._held, those)), sum(map(self._short, those)))
                for priority, those in running.items()
            ),
        )

    def _held(self, sequence: Sequence) -> int:
        """About what it would give back: blocks that it shares are counted too."""
        layouts = self._residency.get(sequence.generation.model).layouts
        assert sequence.tables is not None
        return sequence.tables.blocks * sum(layout.block_bytes for layout in layouts)

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

    def _make_room(self, sequence: Sequence, end: int, placement: Placement) -> bool:
        """Blocks up to position ``end``; under pressure others lose theirs, members of this step included."""
        assert sequence.tables is not None
        while not sequence.tables.grow(sequence.computed, end):
            holders = {holder.id: holder for holder in self._holders()}
            worst = victim(map(_holder, holders.values()), _holder(sequence))
            if worst is None:
                return False
            placement.fails(worst)
            self._preempt(holders[worst])
        return True


def _holder(sequence: Sequence) -> Holder:
    return Holder(sequence.id, sequence.generation.priority, sequence.generation.paused)
