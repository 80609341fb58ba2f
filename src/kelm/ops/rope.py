"""Rotary positions (Su et al. 2021) and their stretchings, each computed as the checkpoints' authors did.

pair i of a head turns by position * frequency[i];  pairs are (x[i], x[i + head_dim / 2])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by ``factor`` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths divided by ``factor``, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_tokens: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023). ``attention_factor`` multiplies cos and sin."""

    factor: float
    original_tokens: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


Scaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, slots=True)
class Rope:
    theta: float
    scaling: Scaling | None = None


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position of each pair, [head_dim / 2] float32."""
    powers = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    match rope.scaling:
        case None:
            return 1.0 / powers
        case LinearScaling(factor):
            return 1.0 / powers / factor
        case Llama3Scaling() as scaling:
            return _llama3(1.0 / powers, scaling)
        case YarnScaling() as scaling:
            return _yarn(powers, rope.theta, scaling)


def _llama3(frequency: Tensor, s: Llama3Scaling) -> Tensor:
    wavelength = 2 * math.pi / frequency
    ramp = (s.original_tokens / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    blended = (1 - ramp) * frequency / s.factor + ramp * frequency
    kept = torch.where(wavelength < s.original_tokens / s.high_freq_factor, frequency, blended)
    return torch.where(wavelength > s.original_tokens / s.low_freq_factor, frequency / s.factor, kept)


def _yarn(powers: Tensor, theta: float, s: YarnScaling) -> Tensor:
    pairs = powers.shape[0]

    def pair_that_turns(times: float) -> float:
        return (2 * pairs * math.log(s.original_tokens / (times * 2 * math.pi))) / (2 * math.log(theta))

    low, high = pair_that_turns(s.beta_fast), pair_that_turns(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = high - low if high != low else 0.001
    kept = 1 - torch.clamp((torch.arange(pairs, dtype=torch.float32) - low) / width, 0, 1)
    return 1.0 / (s.factor * powers) * (1 - kept) + 1.0 / powers * kept


class RopeTable:
    """cos and sin of one Rope for positions 0, 1, ...; grows by doubling when a longer sequence comes."""

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self._frequencies = frequencies(rope, head_dim)
        self._factor = rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0
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
