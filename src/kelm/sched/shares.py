"""Tenants' shares by weighted virtual token counters (VTC, arXiv 2401.00588, section 4).

    counter = tokens served to the tenant / its weight

Whoever is furthest behind is served next. A tenant that comes back from idle is lifted to the least counter of those
who are active, so that what it did not use meanwhile is nobody's debt; and so is one that wants less than its share.
Of two who both wait all the time, neither gets further ahead than (step tokens + 1) / weight of each.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Share:
    """How a tenant stands. ``weight``: at least 1; twice the weight is twice the tokens."""

    weight: int = 1
    counter: float = 0.0

    def charged(self, tokens: int) -> Share:
        return Share(self.weight, self.counter + tokens / self.weight)

    def lifted(self, active: Iterable[Share], floor: float) -> Share:
        """As it stands when it comes back from idle. ``active``: those who have work now; while nobody has,
        ``floor`` counts: where the last one stood when it had no more."""
        least = min((share.counter for share in active), default=floor)
        return Share(self.weight, max(self.counter, least))


NEW = Share()


def content(shares: Mapping[int, Share], served: Collection[int], waiting: Collection[int]) -> dict[int, Share]:
    """After a step: those who got all that they asked for, as they stand then. Nobody owes them what they did not want,
    and where nobody waited, nobody owes anybody. ``waiting``: tenants with a sequence that had to wait."""
    counters = [shares[share].counter for share in waiting or served]
    level = (min if waiting else max)(counters, default=0.0)
    return {
        share: Share(shares[share].weight, max(shares[share].counter, level)) for share in set(served) - set(waiting)
    }


class Claimant(Protocol):
    """Somebody who waits for a turn."""

    @property
    def seq(self) -> int:
        """Grows with arrival."""
        ...

    @property
    def priority(self) -> int:
        """Lower is earlier."""
        ...

    @property
    def share(self) -> int:
        """Whose tenant's."""
        ...


C = TypeVar("C", bound=Claimant)


class Line(Generic[C]):
    """Iterates claimants by priority, then tenant that is furthest behind, then arrival.

    What a claimant gets is charged before the next one is asked for, so that a step is split as the weights are.
    """

    def __init__(self, claimants: Iterable[C], shares: Mapping[int, Share]) -> None:
        self._lanes: dict[tuple[int, int], deque[C]] = {}
        for claimant in sorted(claimants, key=lambda one: one.seq):
            self._lanes.setdefault((claimant.priority, claimant.share), deque()).append(claimant)
        self._shares = {share: shares.get(share, NEW) for _, share in self._lanes}
        self._heap = [self._head(priority, share) for priority, share in self._lanes]
        heapq.heapify(self._heap)

    def charge(self, share: int, tokens: int) -> None:
        self._shares[share] = self._shares[share].charged(tokens)

    def stand(self, share: int) -> Share:
        """With what it was charged here."""
        return self._shares[share]

    def least(self) -> float:
        """Where the one stands that is furthest behind."""
        return min(share.counter for share in self._shares.values())

    def __iter__(self) -> Iterator[C]:
        while self._heap:
            head = priority, _, _, share = self._heap[0]
            lane = self._lanes[priority, share]
            if head != self._head(priority, share):  # charged since it was put here; counters only grow
                heapq.heapreplace(self._heap, self._head(priority, share))
                continue
            claimant = lane.popleft()
            if lane:
                heapq.heapreplace(self._heap, self._head(priority, share))
            else:
                heapq.heappop(self._heap)
            yield claimant

    def _head(self, priority: int, share: int) -> tuple[int, float, int, int]:
        return priority, self._shares[share].counter, self._lanes[priority, share][0].seq, share
