"""How a model's KV groups cut slabs into blocks.

    slab      | block 0 | block 1 | ... | block per_slab-1 | slack |
    block b   lies in slab b // per_slab at byte (b % per_slab) * block_bytes

All groups of one model use the same number of tokens a block, so that block i of every group covers the same
positions and one hash of those tokens names them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kelm import limits
from kelm.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What one position costs in a group, and how far back its rows see (None: to the start)."""

    token_bytes: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """One group's blocks inside slabs."""

    block_tokens: int
    block_bytes: int
    per_slab: int
    window: int | None = None

    def blocks_for(self, tokens: int) -> int:
        """Blocks that cover positions 0 ... tokens - 1."""
        return -(-tokens // self.block_tokens)

    def first_live(self, computed: int) -> int:
        """Index of the first block that the row at position ``computed`` (or a later one) still sees."""
        if self.window is None:
            return 0
        return max(0, computed - self.window + 1) // self.block_tokens

    def most_blocks(self, tokens: int, chunk_tokens: int) -> int:
        """The most blocks that one sequence of ``tokens`` holds at once, computed at most ``chunk_tokens`` a step."""
        whole = self.blocks_for(tokens)
        if self.window is None:
            return whole
        return min(whole, self.blocks_for(self.window + chunk_tokens) + 1)


def lay_out(shapes: Sequence[GroupShape], slab_bytes: int) -> tuple[BlockLayout, ...]:
    """The layouts of a model's groups: as many tokens a block (a power of two, at most the default of limits.py)
    as waste at most an eighth of a slab in every group, else as few as fit.

    Raises UnsupportedModel where one position's KV is larger than a slab.
    """
    widest = max((shape.token_bytes for shape in shapes), default=0)
    if widest > slab_bytes:
        raise UnsupportedModel(
            f"the KV of one position takes {widest} bytes in one layer group, a slab holds {slab_bytes}"
        )
    tokens = int(limits.BLOCK_TOKENS.default or 1)
    while tokens > 1 and any(_slack(shape, tokens, slab_bytes) > slab_bytes // 8 for shape in shapes):
        tokens //= 2
    return tuple(
        BlockLayout(tokens, size := shape.token_bytes * tokens, slab_bytes // size, shape.window) for shape in shapes
    )


def _slack(shape: GroupShape, tokens: int, slab_bytes: int) -> int:
    """Bytes at a slab's end too few for a block; the whole slab where not one fits."""
    return slab_bytes % (shape.token_bytes * tokens)
