"""Weights of 4 or 8 bits: packed in memory, made into floats piece by piece at each product.

The layout is that of the ``compressed-tensors`` checkpoint format ("pack-quantized"); a row is one output's weights:

    packed   uint8 [out, bytes]     8 bits: input i is byte i.  4 bits: inputs 2i and 2i + 1 are the low and the high
                                    half of byte i.  A row ends with its int32 word, so there may be bytes of nobody.
    scale    float [out, groups]    of ``group`` inputs that follow one another; the last group may be short

    weight[o, i] = (unsigned[o, i] - 2 ** (bits - 1)) * scale[o, i // group]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_WORD_BYTES = 4
_PIECE_BYTES = 4 << 20
"""Of float32 made at once: stays in the cache, and bounds what a product needs beside the weight."""
_PIECE_ROWS = 16
"""Pieces have a multiple of so many rows: narrow products take another path (reference.py)."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A linear's weight [out, in]. ``dtype``: of the floats it stands for. Without groups ``group`` is ``columns``."""

    packed: Tensor
    scale: Tensor
    bits: int
    columns: int
    group: int
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.packed.shape[0], self.columns))

    @property
    def nbytes(self) -> int:
        """As held in memory."""
        return self.packed.nbytes + self.scale.nbytes

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as floats, [stop - start, in]: exact in float32, then rounded to ``dtype``."""
        scale = self.scale[start:stop].float()
        width = scale.shape[1] * self.group
        values = unpack(self.packed[start:stop], self.bits)
        values = functional.pad(values, (0, width - values.shape[1]))  # or cut: to whole groups
        floats = values.float().sub_(1 << (self.bits - 1))
        floats.view(*scale.shape, self.group).mul_(scale.unsqueeze(2))
        return floats[:, : self.columns].to(self.dtype)

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, in pieces that depend on the weight's shape only: which rows, and their floats."""
        out = self.shape[0]
        step = max(1, _PIECE_BYTES // (4 * self.columns) // _PIECE_ROWS) * _PIECE_ROWS
        for start in range(0, out, step):
            stop = min(start + step, out)
            yield slice(start, stop), self.rows(start, stop)


Weight = Tensor | QuantizedWeight
"""What a linear multiplies with."""


def unpack(packed: Tensor, bits: int) -> Tensor:
    """uint8 [out, bytes] -> uint8 [out, bytes * 8 / bits]."""
    if bits == 8:
        return packed
    assert bits == 4, bits
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def pack(values: Tensor, bits: int) -> Tensor:
    """uint8 [out, in] below 2 ** bits -> uint8 [out, bytes], each row padded with zeros to whole int32 words."""
    a_word = _WORD_BYTES * 8 // bits
    values = functional.pad(values, (0, -values.shape[1] % a_word))
    if bits == 8:
        return values.clone(memory_format=torch.contiguous_format)  # whose rows can be viewed as words
    assert bits == 4, bits
    return values[:, ::2] | values[:, 1::2] << 4
