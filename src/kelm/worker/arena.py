"""The bytes of the KV arena: one anonymous mapping, made once, seen by each KV group as blocks.

    bytes     | slab 0 | slab 1 | ...                             slab_bytes each
    a group   [slabs, per_slab, layers, kv_heads, 2, block_tokens, head_dim]      a strided view of all of it

Every group's view spans the whole arena; the block pool sees to it that a slab is one group's at a time. The
kernel gives physical pages only as they are written.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kelm.memory.layout import BlockLayout, GroupShape, lay_out
from kelm.models.batch import KVGroup


def lay_out_groups(groups: Sequence[KVGroup], item_bytes: int, slab_bytes: int) -> tuple[BlockLayout, ...]:
    """How the groups cut slabs into blocks: the same wherever it is asked. Raises UnsupportedModel."""
    shapes = [GroupShape(len(g.layers) * g.kv_heads * 2 * g.head_dim * item_bytes, g.window) for g in groups]
    return lay_out(shapes, slab_bytes)


class Arena:
    """``slabs * slab_bytes`` bytes, granted by the ledger before. Implements memory.block_pool.Pages."""

    def __init__(self, slabs: int, slab_bytes: int, *, poison: bool = False) -> None:
        self._slab_bytes = slab_bytes
        self._poison = poison
        self._bytes: NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, slabs * slab_bytes), dtype=np.uint8)

    def view(self, layout: BlockLayout, group: KVGroup, item_bytes: int) -> NDArray[np.generic]:
        """A group's blocks as signed integers of ``item_bytes`` (numpy has no bfloat16; executors reinterpret)."""
        items = self._bytes.view(f"i{item_bytes}")
        inner = (len(group.layers), group.kv_heads, 2, layout.block_tokens, group.head_dim)
        strides = [item_bytes]
        for size in reversed(inner[1:]):
            strides.insert(0, strides[0] * size)
        assert strides[0] * inner[0] == layout.block_bytes, "layout and group disagree"
        return np.lib.stride_tricks.as_strided(
            items,
            shape=(len(self._bytes) // self._slab_bytes, layout.per_slab, *inner),
            strides=(self._slab_bytes, layout.block_bytes, *strides),
        )

    def copy(self, layout: BlockLayout, source: int, target: int) -> None:
        self._block(layout, target)[:] = self._block(layout, source)

    def poison(self, layout: BlockLayout, block: int) -> None:
        """All bits set is NaN in every float format; on when the settings ask for it."""
        if self._poison:
            self._block(layout, block)[:] = 0xFF

    def _block(self, layout: BlockLayout, block: int) -> NDArray[np.uint8]:
        start = block // layout.per_slab * self._slab_bytes + block % layout.per_slab * layout.block_bytes
        return self._bytes[start : start + layout.block_bytes]
