"""Rotary positions (Su et al. 2021) and their stretchings, each computed as the checkpoints' authors did.

pair i of a head turns by position * frequency[i];  pairs are (x[i], x[i + head_dim / 2])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


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


def frequencies(rope: Rope, head_dim: int, powers: Floats | None = None) -> Floats:
    """Radians per position of each pair, [head_dim / 2]. ``powers``: of theta, as another library rounds them."""
    if powers is None:
        powers = np.float32(rope.theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    match rope.scaling:
        case None:
            return 1.0 / powers
        case LinearScaling(factor):
            return 1.0 / powers / np.float32(factor)
        case Llama3Scaling() as scaling:
            return _llama3(1.0 / powers, scaling)
        case YarnScaling() as scaling:
            return _yarn(powers, rope.theta, scaling)


def attention_factor(rope: Rope) -> float:
    """What cos and sin are multiplied by."""
    return rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0


def _llama3(frequency: Floats, s: Llama3Scaling) -> Floats:
    wavelength = np.float32(2 * math.pi) / frequency
    ramp = (s.original_tokens / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    blended = (1 - ramp) * frequency / s.factor + ramp * frequency
    kept = np.where(wavelength < s.original_tokens / s.high_freq_factor, frequency, blended)
    stretched = np.where(wavelength > s.original_tokens / s.low_freq_factor, frequency / s.factor, kept)
    made: Floats = stretched.astype(np.float32)
    return made


def _yarn(powers: Floats, theta: float, s: YarnScaling) -> Floats:
    pairs = len(powers)

    def pair_that_turns(times: float) -> float:
        turned = s.original_tokens / (times * 2 * math.pi)
        return 2 * pairs * math.log(turned) / (2 * math.log(theta))

    low, high = pair_that_turns(s.beta_fast), pair_that_turns(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = high - low if high != low else 0.001
    kept = 1 - np.clip((np.arange(pairs, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    mixed = 1.0 / (np.float32(s.factor) * powers) * (1 - kept) + 1.0 / powers * kept
    made: Floats = mixed.astype(np.float32)
    return made
