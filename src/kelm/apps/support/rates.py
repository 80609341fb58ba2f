"""How often somebody may do something: a bucket of tokens for each key, refilled as time goes by."""

from __future__ import annotations

from collections import OrderedDict

from kelm.clock import Clock
from kelm.errors import Overloaded
from kelm.limits import Bound

_KEYS = 10_000
"""Buckets held; past it the one that was not used for longest is forgotten (and would be full again)."""


class Rate:
    """``bound.value`` times a minute, all of them at once if need be."""

    def __init__(self, bound: Bound, clock: Clock) -> None:
        self._bound = bound
        self._most = float(bound.value)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, key: str) -> None:
        """One time. Raises Overloaded that says when the next is possible."""
        now_s = self._clock.monotonic_s()
        left, then_s = self._buckets.pop(key, (self._most, now_s))
        left = min(self._most, left + (now_s - then_s) * self._most / 60)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now_s)
        if len(self._buckets) > _KEYS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - left) * 60 / self._most
            raise Overloaded(
                f"more than {self._bound.value} {self._bound.unit}; wait {wait_s:.0f} seconds", retry_after_s=wait_s
            )
