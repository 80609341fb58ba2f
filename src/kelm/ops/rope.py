"""Rotary positions (rotation.py) in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from kelm.ops.rotation import Rope, attention_factor, frequencies


def _powers(rope: Rope, head_dim: int) -> Tensor:
    """By torch's pow, whose last bit shows after some hundred positions."""
    return rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


class RopeTable:
    """cos and sin of one Rope for positions 0, 1, ...; grows by doubling when a longer sequence comes."""

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self._frequencies = torch.from_numpy(frequencies(rope, head_dim, _powers(rope, head_dim).numpy()))
        self._factor = attention_factor(rope)
        self._cos = self._sin = torch.empty(0, head_dim // 2)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin at ``positions`` [T], each [T, 1, head_dim / 2] float32."""
        needed = int(positions.max()) + 1
        if needed > self._cos.shape[0]:
            self._grow(max(256, 2 * needed))
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def _grow(self, tokens: int) -> None:
        angles = torch.arange(tokens, dtype=torch.float32)[:, None] * self._frequencies
        self._cos, self._sin = angles.cos() * self._factor, angles.sin() * self._factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head of x [T, heads, head_dim]; float32 arithmetic, x's dtype back."""
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)
