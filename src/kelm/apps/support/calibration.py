"""The thresholds: how sure is sure enough, found on questions that the classifier was never tuned on.

A classifier's own probability says little: tuned on few rows it is sure of nearly everything. So each threshold is the
lowest at which the share of right answers among all answers above it is the one that desk.yaml asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a confidence must reach. Above 1: never."""

    intent: float
    passage: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One question of calibration.csv: how sure, and whether it was right."""

    confidence: float
    right: bool


NEVER = 1.01


def threshold(trials: Sequence[Trial], precision: float, default: float) -> float:
    """The lowest confidence above which at least ``precision`` of the trials are right: halfway to the next below it.

    ``default`` without trials; NEVER when not even the surest were right often enough.
    """
    if not trials:
        return default
    ordered = sorted(trials, key=lambda trial: -trial.confidence)
    right, best = 0, None
    for place, trial in enumerate(ordered):
        right += trial.right
        last = place + 1 == len(ordered)
        below = trial.confidence if last else ordered[place + 1].confidence
        if (last or below < trial.confidence) and right >= precision * (place + 1):
            best = (trial.confidence + below) / 2
    return NEVER if best is None else best


def shares(trials: Iterable[Trial], least: float) -> tuple[int, int, int]:
    """(answered at ``least``, right among them, all)."""
    listed = list(trials)
    answered = [trial for trial in listed if trial.confidence >= least]
    return len(answered), sum(trial.right for trial in answered), len(listed)
