"""Rounding to nearest, symmetric, as compressed-tensors does it: for each group of n inputs (or each output)

scale = max |w| / ((2 ** bits - 1) / 2), in the weight's own type       q = round(w / scale), clamped to bits
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kelm.errors import ModelFormatError
from kelm.ops.quantized import pack

_PIECE_BYTES = 64 << 20
"""Of float32 rounded at once: bounds the memory that a large weight takes."""


@dataclass(slots=True)
class RoundingError:
    """Sums of squares over everything that was rounded."""

    difference: float = 0.0
    weights: float = 0.0

    @property
    def share(self) -> float:
        """Root mean square of the difference, as a share of the weights'."""
        return math.sqrt(self.difference / self.weights) if self.weights else 0.0


def quantize(name: str, weight: Tensor, bits: int, group: int, error: RoundingError) -> tuple[Tensor, Tensor]:
    """``weight`` [out, in] -> packed int32 [out, words] and scale [out, groups]; the last group may be short.

    Raises ModelFormatError for a weight that is not finite.
    """
    rows = max(1, _PIECE_BYTES // (4 * weight.shape[1]))
    made = list(_pieces(name, torch.split(weight, rows), bits, group, error))
    return torch.cat([packed for packed, _ in made]), torch.cat([scale for _, scale in made])


def _pieces(
    name: str, pieces: tuple[Tensor, ...], bits: int, group: int, error: RoundingError
) -> Iterator[tuple[Tensor, Tensor]]:
    most = (1 << (bits - 1)) - 1
    for piece in pieces:
        rows, columns = piece.shape
        floats = functional.pad(piece.float(), (0, -columns % group)).view(rows, -1, group)
        if not torch.isfinite(floats).all():
            raise ModelFormatError(f"{name}: there are weights that are not finite numbers")
        scale = (floats.abs().amax(2) / (most + 0.5)).to(piece.dtype)
        scale = torch.where(scale > 0, scale, torch.finfo(piece.dtype).tiny)
        wide = scale.float().unsqueeze(2)
        values = (floats / wide).round_().clamp_(-most - 1, most)
        error.difference += float((values * wide).sub_(floats).square_().sum())
        error.weights += float(floats.square().sum())
        unsigned = values.add_(most + 1).to(torch.uint8).flatten(1)[:, :columns]
        yield pack(unsigned, bits).view(torch.int32), scale
