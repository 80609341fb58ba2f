"""Block pool and tables against a model of what each sequence must read: random grow, fork, slide and release."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kelm.memory.block_pool import BlockPool
from kelm.memory.layout import BlockLayout
from kelm.memory.tables import Tables

FULL, WINDOW = BlockLayout(4, 100, 3), BlockLayout(4, 170, 2, window=6)


class Contents:
    """Pages whose entries are Python objects: (layout, block) -> what was written at each slot."""

    def __init__(self) -> None:
        self.slots: dict[tuple[BlockLayout, int], list[object]] = {}

    def of(self, layout: BlockLayout, block: int) -> list[object]:
        return self.slots.setdefault((layout, block), [None] * layout.block_tokens)

    def copy(self, layout: BlockLayout, source: int, target: int) -> None:
        self.slots[(layout, target)] = list(self.of(layout, source))

    def poison(self, layout: BlockLayout, block: int) -> None:
        self.slots[(layout, block)] = ["poison"] * layout.block_tokens


class PoolMachine(RuleBasedStateMachine):
    """Each sequence writes (its own tokens) at every position and must read back what it, or its ancestor, wrote."""

    @initialize(slabs=st.integers(2, 8))
    def start(self, slabs: int) -> None:
        self.pages = Contents()
        self.pool = BlockPool(slabs, 350, self.pages)
        self.groups = (self.pool.add_group(FULL), self.pool.add_group(WINDOW))
        self.live: list[tuple[Tables, list[object]]] = []
        self.stamp = 0

    @rule()
    def new(self) -> None:
        self.live.append((Tables(self.pool, self.groups), []))

    @rule(which=st.integers(0, 99), count=st.integers(1, 9))
    def grow(self, which: int, count: int) -> None:
        if not self.live:
            return
        tables, written = self.live[which % len(self.live)]
        start = len(written)
        if not tables.grow(start, start + count):
            return
        for position in range(start, start + count):
            self.stamp += 1
            written.append(self.stamp)
            for layout, numbers in zip((FULL, WINDOW), tables.views(start + count), strict=True):
                self.pages.of(layout, int(numbers[position // 4]))[position % 4] = self.stamp

    @rule(which=st.integers(0, 99))
    def fork(self, which: int) -> None:
        if self.live:
            tables, written = self.live[which % len(self.live)]
            self.live.append((tables.fork(len(written)), list(written)))

    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        if self.live:
            self.live.pop(which % len(self.live))[0].release()

    @invariant()
    def blocks_are_conserved(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check()

    @invariant()
    def everybody_reads_what_was_written(self) -> None:
        for tables, written in getattr(self, "live", []):
            for layout, numbers in zip((FULL, WINDOW), tables.views(len(written)), strict=True):
                for position in range(layout.first_live(len(written)) * 4, len(written)):
                    assert self.pages.of(layout, int(numbers[position // 4]))[position % 4] == written[position]

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for tables, _ in self.live:
                tables.release()
            self.pool.check()
            assert self.pool.counts()[0] == self.pool.counts()[1]
            assert self.pool.free_bytes() == self.pool.slabs * self.pool.slab_bytes


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBlockPool = PoolMachine.TestCase


def test_slabs_move_between_groups() -> None:
    pool = BlockPool(2, 350, Contents())
    one, two = pool.add_group(FULL), pool.add_group(WINDOW)
    taken = [pool.take(one) for _ in range(6)]
    assert None not in taken
    assert pool.take(one) is None
    assert pool.take(two) is None
    for block in taken[:3]:
        assert block is not None
        pool.drop(one, block)
    assert pool.take(two) is not None
    pool.check()
