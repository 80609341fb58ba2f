"""The block tables of one sequence: for each KV group, which block holds positions i * block_tokens and on.

full group     7  3  9  4          absolute index: entry i is always block i of the sequence
window group  -1 -1  5  2          behind the window the blocks are free already
                        └ shared with a fork? copied before it is written
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kelm.memory.block_pool import BlockPool

if TYPE_CHECKING:
    from kelm.memory.prefix import Entry


class Tables:
    """A sequence's hold on blocks; ends with ``release``."""

    __slots__ = ("_first", "_groups", "_numbers", "_pool", "blocks", "chain", "chained")

    def __init__(self, pool: BlockPool, groups: tuple[int, ...]) -> None:
        self._pool = pool
        self._groups = groups
        self._numbers: list[NDArray[np.int32]] = [np.full(8, -1, dtype=np.int32) for _ in groups]
        self._first = [0] * len(groups)
        self.blocks = 0
        """Entries in each group's table."""
        self.chain: Entry | bytes = b""
        """The prefix cache's last entry of this sequence (prefix.py), or its salt."""
        self.chained = 0
        """Full blocks that the prefix cache knows."""

    def grow(self, computed: int, end: int) -> bool:
        """Make positions computed ... end - 1 writable: frees what fell out of windows, copies a shared block that
        would be written, takes blocks up to ``end``. False when the pool is dry; what was taken stays, and the
        call can be repeated after somebody freed blocks."""
        if not self._groups:
            return True
        self._slide(computed)
        block_tokens = self._pool.layout(self._groups[0]).block_tokens
        if computed < self.blocks * block_tokens and not self._unshare(computed // block_tokens):
            return False
        while self.blocks * block_tokens < end:
            if not self._append():
                return False
        return True

    def views(self, end: int) -> tuple[NDArray[np.int32], ...]:
        """For each group the entries that cover positions 0 ... end - 1; valid until the next change."""
        if not self._groups:
            return ()
        used = self._pool.layout(self._groups[0]).blocks_for(end)
        return tuple(numbers[:used] for numbers in self._numbers)

    def fork(self, computed: int) -> Tables:
        """Tables of a child that shares the blocks of positions 0 ... computed - 1."""
        child = Tables(self._pool, self._groups)
        used = self._pool.layout(self._groups[0]).blocks_for(computed) if self._groups else 0
        child.adopt([[int(block) for block in numbers[:used]] for numbers in self._numbers])
        child.chain, child.chained = self.chain, self.chained
        return child

    def adopt(self, numbers: list[list[int]]) -> None:
        """Share existing blocks as the first entries of empty tables (-1 where a window needs none)."""
        assert self.blocks == 0, "adopting into tables in use"
        for index, blocks in enumerate(numbers):
            self._numbers[index] = np.full(max(8, 2 * len(blocks)), -1, dtype=np.int32)
            self._numbers[index][: len(blocks)] = blocks
            self._first[index] = next((i for i, block in enumerate(blocks) if block >= 0), len(blocks))
            for block in blocks[self._first[index] :]:
                self._pool.share(self._groups[index], block)
        self.blocks = len(numbers[0]) if numbers else 0

    def release(self) -> None:
        """Drop every block, the last first: of cached blocks, the ends of chains are then evicted before starts."""
        for index, group in enumerate(self._groups):
            for block in self._numbers[index][self._first[index] : self.blocks][::-1]:
                if block >= 0:
                    self._pool.drop(group, int(block))
            self._numbers[index][:] = -1
            self._first[index] = 0
        self.blocks = self.chained = 0

    def _slide(self, computed: int) -> None:
        for index, group in enumerate(self._groups):
            live = min(self._pool.layout(group).first_live(computed), self.blocks)
            for position in range(self._first[index], live):
                block = int(self._numbers[index][position])
                self._numbers[index][position] = -1
                if block >= 0:
                    self._pool.drop(group, block)
            self._first[index] = max(self._first[index], live)

    def _unshare(self, position: int) -> bool:
        for index, group in enumerate(self._groups):
            block = int(self._numbers[index][position])
            if block < 0 or not self._pool.shared(group, block):
                continue
            own = self._pool.take(group)
            if own is None:
                return False
            self._pool.copy(group, block, own)
            self._pool.drop(group, block)
            self._numbers[index][position] = own
        return True

    def _append(self) -> bool:
        """One more entry in every table, or in none."""
        taken: list[int] = []
        for group in self._groups:
            block = self._pool.take(group)
            if block is None:
                for back, number in zip(self._groups, taken, strict=False):
                    self._pool.drop(back, number)
                return False
            taken.append(block)
        for index, block in enumerate(taken):
            if self.blocks == len(self._numbers[index]):
                self._numbers[index] = np.concatenate([self._numbers[index], np.full(self.blocks, -1, np.int32)])
            self._numbers[index][self.blocks] = block
        self.blocks += 1
        return True
