"""Medians, their ratio, and how far apart the rounds were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the rounds of one contender."""

    median: float
    least: float
    most: float
    quarter: float
    """A quarter of the rounds lies below it ..."""
    three_quarters: float
    """... and above it."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """``value``: of the medians. ``least`` to ``most``: of single rounds, in which both ran one after the other."""

    value: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError without a value."""
    if not values:
        raise ValueError("no round was measured")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], values[0], values[0])
    first, middle, third = quantiles(values, n=4, method="inclusive")
    return Spread(middle, min(values), max(values), first, third)


def ratio(ours: Sequence[float], theirs: Sequence[float], *, less_is_better: bool = False) -> Ratio:
    """How many times better ``ours`` are. Raises ValueError where the rounds are not the same ones."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} rounds against {len(theirs)}")
    over, under = (theirs, ours) if less_is_better else (ours, theirs)
    rounds = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(median(over) / median(under), min(rounds), max(rounds))


def best(sides: Sequence[Sequence[float]], *, less_is_better: bool = False) -> int:
    """Which has the best median. Raises ValueError without any."""
    pick = min if less_is_better else max
    return pick(range(len(sides)), key=lambda number: median(sides[number]))
