"""Whose turn it is, and who gives way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A sequence that holds blocks."""

    seq: int
    paused: bool = False


def victim(holders: Iterable[Holder], claimant: int) -> int | None:
    """Who loses its blocks so that ``claimant`` can go on: a paused sequence, else the latest arrival after it.

    None when only earlier ones are left. So the earliest that isn't paused can take everything from the others,
    and always finishes; whoever is preempted is computed again when there is room.
    """
    worst = max(
        (holder for holder in holders if holder.seq != claimant and (holder.paused or holder.seq > claimant)),
        key=lambda holder: (holder.paused, holder.seq),
        default=None,
    )
    return None if worst is None else worst.seq


def rotation(models: Sequence[str], last: str | None) -> list[str]:
    """All resident models in the order in which to look for ready work: a step runs one base model, and each waits
    at most one step of every other. ``last`` ran the step before."""
    if last not in models:
        return list(models)
    after = models.index(last) + 1
    return [*models[after:], *models[:after]]
