"""The arena's slabs, cut into the blocks of KV groups. Numbers only; the bytes are in worker/arena.py.

free slab ──take──> slab of a group: every block is one of
                        free    in ``open[slab]``
                        held    reference count >= 1 (tables of sequences)
                        idle    count 0, but its content is cached: evicted, oldest first, when the pool is dry
the last block of a slab is freed ──> free slab again, for any group of any model
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kelm.memory.layout import BlockLayout


class Pages(Protocol):
    """The bytes behind the block numbers."""

    def copy(self, layout: BlockLayout, source: int, target: int) -> None: ...

    def poison(self, layout: BlockLayout, block: int) -> None:
        """A block was freed: whatever still reads it must not find plausible values."""
        ...


@dataclass(slots=True)
class _Group:
    layout: BlockLayout
    open: dict[int, list[int]] = field(default_factory=dict)
    """Slabs with free blocks -> those blocks."""
    slabs: set[int] = field(default_factory=set)
    refs: dict[int, int] = field(default_factory=dict)
    cached: set[int] = field(default_factory=set)
    """Blocks whose content the prefix cache knows, held or idle."""
    idle: dict[int, None] = field(default_factory=dict)
    """Cached blocks that nobody holds, least recently used first."""
    on_evict: Callable[[int, int], None] = lambda group, block: None


class BlockPool:
    """Hands out blocks. A block is named by (group, number)."""

    def __init__(self, slabs: int, slab_bytes: int, pages: Pages) -> None:
        self.slabs = slabs
        self.slab_bytes = slab_bytes
        self._pages = pages
        self._free_slabs = list(range(slabs - 1, -1, -1))
        self._groups: dict[int, _Group] = {}
        self._next_group = 0

    def add_group(self, layout: BlockLayout) -> int:
        """A new, empty group; it takes slabs as its blocks are asked for."""
        group = self._next_group
        self._next_group += 1
        self._groups[group] = _Group(layout)
        return group

    def remove_group(self, group: int) -> None:
        """Drop a group; all of its blocks must have been dropped before."""
        assert not self._groups[group].refs, "blocks still held"
        for block in list(self._groups[group].cached):
            self._evict(group, block)
        del self._groups[group]

    def on_evict(self, group: int, told: Callable[[int, int], None]) -> None:
        """``told`` (group, block) when a cached block of this group is about to be used for something else."""
        self._groups[group].on_evict = told

    def layout(self, group: int) -> BlockLayout:
        return self._groups[group].layout

    def take(self, group: int) -> int | None:
        """A block with one reference; None when the pool is dry."""
        own = self._groups[group]
        while not own.open:
            if self._free_slabs:
                self._open(own, self._free_slabs.pop())
            elif not self._evict_for(group):
                return None
        slab = next(reversed(own.open))
        block = own.open[slab].pop()
        if not own.open[slab]:
            del own.open[slab]
        own.refs[block] = 1
        return block

    def share(self, group: int, block: int) -> None:
        """One more reference to a held or idle block."""
        own = self._groups[group]
        own.idle.pop(block, None)
        assert block in own.refs or block in own.cached, "sharing a free block"
        own.refs[block] = own.refs.get(block, 0) + 1

    def drop(self, group: int, block: int) -> None:
        """One reference less; the last one frees the block, or leaves it idle when its content is cached."""
        own = self._groups[group]
        own.refs[block] -= 1
        if own.refs[block]:
            return
        del own.refs[block]
        if block in own.cached:
            own.idle[block] = None
        else:
            self._free(own, block)

    def shared(self, group: int, block: int) -> bool:
        """Whether writing to it would change what someone else reads."""
        return self._groups[group].refs[block] > 1

    def copy(self, group: int, source: int, target: int) -> None:
        self._pages.copy(self._groups[group].layout, source, target)

    def cache(self, group: int, block: int) -> None:
        """Keep a held block's content after its last drop, until the pool is dry."""
        self._groups[group].cached.add(block)

    def uncache(self, group: int, block: int) -> None:
        """Its content is of no more use; free it unless somebody holds it."""
        own = self._groups[group]
        own.cached.discard(block)
        if block in own.idle:
            del own.idle[block]
            self._free(own, block)

    def free_bytes(self) -> int:
        """Bytes in blocks that nobody holds (idle cached ones included) and in free slabs."""
        held = sum(len(own.refs) * own.layout.block_bytes for own in self._groups.values())
        return self.slabs * self.slab_bytes - held

    def counts(self) -> tuple[int, int]:
        """(free, total) in blocks; of the smallest kind when groups differ. Idle cached blocks count as free."""
        per_slab = max((own.layout.per_slab for own in self._groups.values()), default=1)
        total = self.slabs * per_slab
        held = sum(len(own.refs) * per_slab / own.layout.per_slab for own in self._groups.values())
        return total - int(-(-held // 1)), total

    def check(self) -> None:
        """Conservation: every slab is free or one group's, every block free, held or idle. AssertionError if not."""
        owned = [slab for own in self._groups.values() for slab in own.slabs]
        assert sorted(owned + self._free_slabs) == list(range(self.slabs)), "slabs lost or owned twice"
        for own in self._groups.values():
            free = [block for blocks in own.open.values() for block in blocks]
            blocks = sorted(free + list(own.refs) + list(own.idle))
            per_slab = own.layout.per_slab
            assert blocks == sorted(s * per_slab + i for s in own.slabs for i in range(per_slab)), "blocks lost"
            assert all(count >= 1 for count in own.refs.values()) and own.idle.keys() <= own.cached

    def _open(self, own: _Group, slab: int) -> None:
        per_slab = own.layout.per_slab
        own.slabs.add(slab)
        own.open[slab] = list(range((slab + 1) * per_slab - 1, slab * per_slab - 1, -1))

    def _free(self, own: _Group, block: int) -> None:
        self._pages.poison(own.layout, block)
        slab = block // own.layout.per_slab
        blocks = own.open.setdefault(slab, [])
        blocks.append(block)
        if len(blocks) == own.layout.per_slab:
            del own.open[slab]
            own.slabs.remove(slab)
            self._free_slabs.append(slab)

    def _evict_for(self, group: int) -> bool:
        """Evict one idle block: the group's own oldest, else another group's, which may free a slab in the end."""
        for candidate in (group, *self._groups):
            idle = self._groups[candidate].idle
            if idle:
                self._evict(candidate, next(iter(idle)))
                return True
        return False

    def _evict(self, group: int, block: int) -> None:
        self._groups[group].on_evict(group, block)
        self.uncache(group, block)
