"""Prefix cache: full blocks whose tokens are known, so that another sequence with the same beginning can share them.

    salt ── block 0 ── block 1 ── block 2        an entry names its parent, its tokens, and a block in each KV group
                  └─── block 1'

An entry is found by a hash over its parent's hash and its tokens; then parent and tokens themselves are compared, so
that a collision is a miss and never somebody else's text. Entries of different salts never meet. Nobody is charged
for a block that only the cache knows: it counts as free, and goes, oldest first, when the pool is dry.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from kelm.memory.block_pool import BlockPool
from kelm.memory.tables import Tables

Hash = Callable[[bytes, Sequence[int]], bytes]


def chain_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """BLAKE2b, 16 bytes."""
    return blake2b(array("q", tokens).tobytes(), key=parent[:64], digest_size=16).digest()


@dataclass(slots=True, eq=False)
class Entry:
    """A block's worth of tokens behind ``parent`` (the entry before it, or the salt)."""

    key: bytes
    parent: Entry | bytes
    tokens: tuple[int, ...]
    blocks: list[int]
    """By KV group; -1: a window group's that was evicted."""
    alive: bool = True


class PrefixCache:
    """Of one model. ``groups`` are its KV groups in the pool."""

    def __init__(self, pool: BlockPool, groups: tuple[int, ...], make_hash: Hash = chain_hash) -> None:
        self._pool = pool
        self._groups = groups
        self._hash = make_hash
        self._entries: dict[bytes, Entry] = {}
        self._of_block: dict[tuple[int, int], Entry] = {}
        for group in groups:
            pool.on_evict(group, self._evicted)

    def adopt(self, tables: Tables, salt: bytes, known: Sequence[int], most: int) -> int:
        """Let empty ``tables`` share the longest cached beginning of ``known``, at most ``most`` tokens of it.

        Returns how many tokens need not be computed: whole blocks.
        """
        tables.chain, tables.chained = salt, 0
        if not self._groups:
            return 0
        found = self._usable(self._walk(salt, known, most))
        if found:
            tables.adopt([self._column(index, found) for index in range(len(self._groups))])
            tables.chain, tables.chained = found[-1], len(found)
        return len(found) * self._block_tokens

    def extend(self, tables: Tables, known: Sequence[int], computed: int) -> None:
        """Remember the blocks of ``tables`` that are full now: positions below ``computed`` are in memory."""
        if not self._groups:
            return
        size = self._block_tokens
        while (tables.chained + 1) * size <= computed:
            if isinstance(tables.chain, Entry) and not tables.chain.alive:
                return
            index = tables.chained
            entry = self._put(tables.chain, tuple(islice(known, index * size, (index + 1) * size)))
            for place, (group, numbers) in enumerate(zip(self._groups, tables.views(computed), strict=True)):
                if entry.blocks[place] < 0 <= numbers[index]:
                    entry.blocks[place] = int(numbers[index])
                    self._of_block[(group, entry.blocks[place])] = entry
                    self._pool.cache(group, entry.blocks[place])
            tables.chain, tables.chained = entry, index + 1

    @property
    def _block_tokens(self) -> int:
        return self._pool.layout(self._groups[0]).block_tokens

    def _walk(self, salt: bytes, known: Sequence[int], most: int) -> list[Entry]:
        """The entries of the beginning of ``known``, as far as every full group has its block."""
        found: list[Entry] = []
        parent: Entry | bytes = salt
        size = self._block_tokens
        for start in range(0, most - size + 1, size):
            tokens = tuple(known[start : start + size])
            entry = self._entries.get(self._key(parent, tokens))
            if entry is None or not _same(entry, parent, tokens):
                break
            found.append(entry)
            parent = entry
        return found

    def _usable(self, found: list[Entry]) -> list[Entry]:
        """Cut where the next row finds everything that its windows see."""
        while found:
            end = len(found) * self._block_tokens
            firsts = [self._pool.layout(group).first_live(end) for group in self._groups]
            gaps = [
                position
                for place, first in enumerate(firsts)
                for position in range(first, len(found))
                if found[position].blocks[place] < 0
            ]
            if not gaps:
                break
            found = found[: min(gaps)]
        return found

    def _column(self, place: int, found: list[Entry]) -> list[int]:
        """One group's table: -1 behind its window."""
        first = self._pool.layout(self._groups[place]).first_live(len(found) * self._block_tokens)
        return [-1] * first + [entry.blocks[place] for entry in found[first:]]

    def _put(self, parent: Entry | bytes, tokens: tuple[int, ...]) -> Entry:
        """The entry of these tokens behind this parent; one that is in its place (a collision, an orphan) goes."""
        key = self._key(parent, tokens)
        entry = self._entries.get(key)
        if entry is not None and _same(entry, parent, tokens):
            return entry
        if entry is not None:
            self._remove(entry)
        entry = self._entries[key] = Entry(key, parent, tokens, [-1] * len(self._groups))
        return entry

    def _key(self, parent: Entry | bytes, tokens: tuple[int, ...]) -> bytes:
        return self._hash(parent.key if isinstance(parent, Entry) else parent, tokens)

    def _evicted(self, group: int, block: int) -> None:
        entry = self._of_block.pop((group, block))
        entry.blocks[self._groups.index(group)] = -1
        if self._pool.layout(group).window is None or max(entry.blocks) < 0:
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        entry.alive = False
        del self._entries[entry.key]
        for place, block in enumerate(entry.blocks):
            if block >= 0:
                entry.blocks[place] = -1
                del self._of_block[(self._groups[place], block)]
                self._pool.uncache(self._groups[place], block)


def _same(entry: Entry, parent: Entry | bytes, tokens: tuple[int, ...]) -> bool:
    """The hash found it; is it what was looked for?"""
    return entry.parent == parent and entry.tokens == tokens
