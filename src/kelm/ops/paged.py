"""Paged KV: writing rows into blocks, and attention over blocks.

work       a sequence's rows are cut into query tiles of QUERY_TILE rows (the last one padded), its keys into
           KV tiles of KV_TILE absolute positions. Every product has one shape, [QUERY_TILE * group, KV_TILE],
           whatever the batch, so a row's bits depend on its own sequence only.
order      a row folds its KV tiles in rising order with an online softmax (Milakov and Gimelshein 2018).
masked     a hidden key scores -inf while the running maximum starts at a finite floor: its weight is exactly 0,
           and a tile with no visible key changes no bit. Keys that no row of a tile sees are read as 0 (the
           tail of a block may hold anything, NaN included).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kelm.ops.reference import NARROW, soft_cap

QUERY_TILE = 8
KV_TILE = 64
_ITEMS_PER_PASS = 64  # bounds what one pass gathers, whatever the step's size
_FLOOR = -1e30

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one sequence: ``length`` of them from row ``start`` of the batch, at positions ``context`` and on.

    ``table``: block of positions [i * block_tokens, (i + 1) * block_tokens); -1 where freed.
    """

    start: int
    length: int
    context: int
    table: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sight:
    """Which keys a row at position p sees: p - window + 1 ... p; not ``causal``: every one of its sequence."""

    causal: bool = True
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores are made: (q . k) * scale, then the soft cap."""

    scale: float
    cap: float | None = None


@dataclass(frozen=True, slots=True)
class _Tile:
    """The n-th KV tile of the first query tiles of a pass."""

    items: int
    blocks: tuple[Tensor, Tensor]
    """slab, and block in it, of the tile's blocks: [items, KV_TILE / block_tokens] each."""
    mask: Tensor | None
    """[items, 1, 1, QUERY_TILE, KV_TILE] float32: 0 where a row sees a key, else -inf; None when all see all."""
    unseen: Tensor | None
    """[items, 1, KV_TILE, 1] bool: keys that no row of the item sees; None when there are none."""


@dataclass(frozen=True, slots=True)
class _Pass:
    rows: Tensor
    """[items * QUERY_TILE] row of the batch in each query slot."""
    tiles: tuple[_Tile, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the rows of a step are written and what they read; made once for each KV group and step."""

    write_at: tuple[Tensor, Tensor, Tensor]
    """slab, block, slot, [T] each."""
    passes: tuple[_Pass, ...]
    slot_of_row: Tensor
    """[T] query slot, over all passes, that holds a row's result."""

    @property
    def rows(self) -> int:
        return len(self.slot_of_row)


@dataclass(frozen=True, slots=True)
class _Items:
    """Query tiles, one a row of each array; those with the most KV tiles first, so the active ones are a prefix."""

    seq: Ints
    rows: Ints
    """[items, QUERY_TILE] row of the batch."""
    filled: NDArray[np.bool_]
    """[items, QUERY_TILE] False for padding."""
    low: Ints
    high: Ints
    """[items, QUERY_TILE] first and last position seen."""

    @property
    def first_tile(self) -> Ints:
        return np.asarray(self.low.min(1) // KV_TILE)

    @property
    def tiles(self) -> Ints:
        return np.asarray(self.high.max(1) // KV_TILE - self.first_tile + 1)

    def take(self, which: Ints | slice) -> _Items:
        return _Items(self.seq[which], self.rows[which], self.filled[which], self.low[which], self.high[which])


class _Tables:
    """The block tables of all sequences of a step as one array."""

    def __init__(self, spans: Sequence[Rows], shape: Sequence[int]) -> None:
        self._per_slab, self._block_tokens = shape[1], shape[5]
        self._blocks = np.zeros((len(spans), max(len(s.table) for s in spans)), dtype=np.int64)
        for i, span in enumerate(spans):
            self._blocks[i, : len(span.table)] = np.maximum(span.table, 0)

    def rows(self, seq: Ints, position: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """slab, block, slot of each position."""
        slab, block = self.blocks(seq, position // self._block_tokens)
        return slab, block, torch.from_numpy(position % self._block_tokens)

    def tile(self, seq: Ints, number: Ints) -> tuple[Tensor, Tensor]:
        """slab and block of the blocks of KV tile ``number`` of each sequence."""
        per_tile = KV_TILE // self._block_tokens
        return self.blocks(seq[:, None], number[:, None] * per_tile + np.arange(per_tile))

    def blocks(self, seq: Ints, index: Ints) -> tuple[Tensor, Tensor]:
        """slab and block at ``index`` of a table; beyond its end any block (its keys are masked)."""
        block = self._blocks[seq, np.minimum(index, self._blocks.shape[1] - 1)]
        return torch.from_numpy(block // self._per_slab), torch.from_numpy(block % self._per_slab)


def plan(spans: Sequence[Rows], shape: Sequence[int], sight: Sight) -> Plan:
    """``shape``: of the group's KV, [slabs, blocks_per_slab, layers, kv_heads, 2, block_tokens, head_dim]."""
    tables = _Tables(spans, shape)
    seq = np.concatenate([np.full(s.length, i, dtype=np.int64) for i, s in enumerate(spans)])
    position = np.concatenate([np.arange(s.context, s.context + s.length, dtype=np.int64) for s in spans])
    items = _cut(spans, sight)
    passes = []
    for start in range(0, len(items.seq), _ITEMS_PER_PASS):
        part = items.take(slice(start, start + _ITEMS_PER_PASS))
        passes.append(_Pass(torch.from_numpy(part.rows.ravel()), tuple(_tiles(part, tables))))
    slot_of_row = np.zeros(len(seq), dtype=np.int64)
    slot_of_row[items.rows[items.filled]] = np.flatnonzero(items.filled)
    return Plan(tables.rows(seq, position), tuple(passes), torch.from_numpy(slot_of_row))


def _cut(spans: Sequence[Rows], sight: Sight) -> _Items:
    offsets = [np.arange(0, s.length, QUERY_TILE, dtype=np.int64) for s in spans]
    seq = np.concatenate([np.full(len(o), i, dtype=np.int64) for i, o in enumerate(offsets)])
    extents = np.array([(s.start, s.length, s.context) for s in spans], dtype=np.int64)[seq]
    start, length, context = extents[:, :1], extents[:, 1:2], extents[:, 2:]
    slot = np.concatenate(offsets)[:, None] + np.arange(QUERY_TILE)
    inside = np.minimum(slot, length - 1)  # padding repeats the last row
    high = context + (inside if sight.causal else np.broadcast_to(length - 1, inside.shape))
    low = np.zeros_like(high) if sight.window is None else np.maximum(high - sight.window + 1, 0)
    items = _Items(seq, start + inside, slot < length, low, high)
    return items.take(np.argsort(-items.tiles, kind="stable"))


def _tiles(items: _Items, tables: _Tables) -> Iterator[_Tile]:
    counts, first = items.tiles, items.first_tile
    for nth in range(int(counts[0])):
        active = items.take(slice(0, int((counts > nth).sum())))
        number = first[: len(active.seq)] + nth
        position = number[:, None, None] * KV_TILE + np.arange(KV_TILE)  # [items, 1, KV_TILE]
        visible = (position >= active.low[..., None]) & (position <= active.high[..., None])
        mask = None if visible.all() else np.where(visible, np.float32(0), np.float32(-np.inf))[:, None, None]
        seen = visible.any(1)
        unseen = None if seen.all() else torch.from_numpy(~seen)[:, None, :, None]
        blocks = tables.tile(active.seq, number)
        yield _Tile(len(number), blocks, None if mask is None else torch.from_numpy(mask), unseen)


def write_kv(kv: Tensor, layer: int, step: Plan, keys: Tensor, values: Tensor) -> None:
    """Put keys and values [T, kv_heads, head_dim] where the plan says, in ``kv``'s dtype."""
    slab, block, slot = step.write_at
    kv[:, :, layer][slab, block, :, :, slot] = torch.stack((keys, values), dim=2).to(kv.dtype)


def paged_attention(q: Tensor, kv: Tensor, layer: int, step: Plan, scores: Scores) -> Tensor:
    """Attention of q [T or more, heads, head_dim] over the blocks of ``layer``, in float32 -> the same shape, float32.

    heads is a multiple of kv_heads; query head h reads KV head h // (heads / kv_heads). Rows past the plan's are 0.
    """
    heads, head_dim = q.shape[1:]
    kv_heads = kv.shape[3]
    grouped = (q.float() * scores.scale).view(-1, kv_heads, heads // kv_heads, head_dim)
    out = [_attend(grouped[p.rows], kv[:, :, layer], p.tiles, scores.cap) for p in step.passes]
    slots = torch.cat(out) if len(out) > 1 else out[0]  # [slots, kv_heads, group, head_dim]
    rows = slots[step.slot_of_row].flatten(1, 2)
    return functional.pad(rows, (0, 0, 0, 0, 0, q.shape[0] - step.rows))


def _attend(q: Tensor, kv: Tensor, tiles: tuple[_Tile, ...], cap: float | None) -> Tensor:
    """q [items * QUERY_TILE, kv_heads, group, head_dim] -> the same shape."""
    _, kv_heads, group, head_dim = q.shape
    q = q.view(-1, QUERY_TILE, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)  # [items, kv_heads, group, Q, d]
    q = functional.pad(q.reshape(-1, kv_heads, group * QUERY_TILE, head_dim), (0, _wide(head_dim) - head_dim))
    top = q.new_full((*q.shape[:3], 1), _FLOOR)
    total = q.new_zeros(*q.shape[:3], 1)
    out = torch.zeros_like(q)
    for tile in tiles:
        n = tile.items
        k, v = _gather(kv, tile)
        s = soft_cap(torch.matmul(q[:n], k.transpose(2, 3)), cap)
        if tile.mask is not None:
            s = (s.view(n, kv_heads, group, QUERY_TILE, KV_TILE) + tile.mask).view(s.shape)
        higher = torch.maximum(top[:n], s.amax(-1, keepdim=True))
        weight, kept = torch.exp(s - higher), torch.exp(top[:n] - higher)
        top[:n] = higher
        total[:n] = total[:n] * kept + weight.sum(-1, keepdim=True)
        out[:n] = out[:n] * kept + torch.matmul(weight, v)
    out = (out[..., :head_dim] / total).view(-1, kv_heads, group, QUERY_TILE, head_dim)
    return out.permute(0, 3, 1, 2, 4).reshape(-1, kv_heads, group, head_dim)


def _wide(head_dim: int) -> int:
    return max(head_dim, NARROW)


def _gather(kv: Tensor, tile: _Tile) -> tuple[Tensor, Tensor]:
    """K and V of a tile, each [items, kv_heads, KV_TILE, head_dim] float32; narrow heads padded with zeros."""
    blocks = kv[tile.blocks].permute(3, 0, 2, 1, 4, 5)  # [2, items, kv_heads, blocks, block_tokens, head_dim]
    head_dim = blocks.shape[-1]
    both = torch.empty((*blocks.shape[:-1], _wide(head_dim)), dtype=torch.float32)
    both[..., :head_dim] = blocks
    both[..., head_dim:] = 0.0
    both = both.flatten(3, 4)
    if tile.unseen is not None:
        both.masked_fill_(tile.unseen, 0.0)
    return both[0], both[1]
