"""Who has been served what: tenants' counters as the step plan sees them, and what the daemon hasn't heard of yet.

A worker knows tenants as numbers. The daemon owns their counters: it sends with each request where one stands, so that
a new worker goes on where the last one died, and is told with each step how far they have come.
"""

from __future__ import annotations

from kelm.sched.shares import NEW, Share, content
from kelm.wire.messages import Charge


class Bill:
    """``shares`` is what sched/ plans with."""

    def __init__(self) -> None:
        self.shares: dict[int, Share] = {}
        self._served: dict[int, int] = {}
        self._again: dict[int, int] = {}

    def open(self, share: int, weight: int, counter: float) -> None:
        """The daemon says where a counter stands; what was charged here meanwhile is not taken back."""
        known = self.shares.get(share, NEW)
        self.shares[share] = Share(weight, max(known.counter, counter))

    def lift(self, share: int, counter: float) -> None:
        self.open(share, self.shares.get(share, NEW).weight, counter)

    def charge(self, share: int, tokens: int) -> None:
        if tokens:
            self.shares[share] = self.shares.get(share, NEW).charged(tokens)
            self._served[share] = self._served.get(share, 0) + tokens

    def close(self, served: set[int], waiting: set[int]) -> None:
        """A step is over; see shares.content."""
        self.shares |= content(self.shares, served, waiting)

    def again(self, pid: int, tokens: int) -> None:
        """Computed a second time, which nobody is charged for."""
        if tokens:
            self._again[pid] = self._again.get(pid, 0) + tokens

    def charges(self) -> list[Charge]:
        """Since the last time."""
        served, self._served = self._served, {}
        return [Charge(share, tokens, self.shares[share].counter) for share, tokens in served.items()]

    def recomputed(self) -> dict[int, int]:
        """Process -> tokens, since the last time."""
        again, self._again = self._again, {}
        return again
