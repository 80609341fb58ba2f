"""Whose turn it is, and who gives way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A sequence that holds blocks."""

    seq: int
    priority: int = 0
    paused: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Less is earlier. Shares are not in it: they change with every step, and two who take turns in taking each
        other's blocks would never finish."""
        return self.priority, self.seq


def victim(holders: Iterable[Holder], claimant: Holder) -> int | None:
    """Who loses its blocks so that ``claimant`` can go on: a paused sequence, else the last one behind it by priority
    and arrival.

    None when only earlier ones are left. So the first of them all that isn't paused can take everything from the
    others, and always finishes; whoever is preempted is computed again when there is room.
    """
    worst = max(
        (one for one in holders if one.seq != claimant.seq and (one.paused or one.place > claimant.place)),
        key=lambda one: (one.paused, one.place),
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
