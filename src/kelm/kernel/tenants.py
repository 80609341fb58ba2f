"""Tenants while the daemon runs: their weights, their counters, what they were served.

A worker charges; the daemon owns the counters, so they outlive a worker: what it says with each step is kept here, and
goes with each request to the worker that is up (sched/shares.py has the arithmetic). Whether a tenant is idle is seen
here too, because only here it is known of those who wait for a model, a worker or the end of a trial.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kelm import limits
from kelm.clock import Clock
from kelm.sched.shares import Share
from kelm.wire.messages import Charge


@dataclass(slots=True)
class Tenant:
    """``number`` is what workers know it by."""

    name: str = "local"
    number: int = 0
    share: Share = field(default_factory=Share)
    served_tokens: int = 0
    """Computed for it: prompts and answers, without what the prefix cache had."""
    wanting: set[int] = field(default_factory=set)
    """Pids of its unfinished processes whose readers keep up."""


class Tenants:
    """``weights`` is asked whenever somebody comes: tenant -> weight, 1 for others."""

    def __init__(self, weights: Callable[[], Mapping[str, int]], clock: Clock) -> None:
        self._weights = weights
        self._clock = clock
        self._by_name: dict[str, Tenant] = {}
        self._by_number: list[Tenant] = []
        self._floor = 0.0
        self._lately: deque[tuple[int, dict[int, int]]] = deque()
        """(second, number -> tokens served in it), the window of limits.SHARE_WINDOW_S."""

    def of(self, name: str) -> Tenant:
        """A newcomer gets a number; the weight is what it is now."""
        if name not in self._by_name:
            self._by_name[name] = Tenant(name, len(self._by_number))
            self._by_number.append(self._by_name[name])
        tenant = self._by_name[name]
        weight = self._weights().get(name, int(limits.WEIGHT.value))
        tenant.share = Share(weight, tenant.share.counter)
        return tenant

    def wants(self, tenant: Tenant, pid: int, wanted: bool) -> None:
        """A process wants to run from now on, or doesn't any more. Its tenant may come back from idle by that."""
        if wanted and not tenant.wanting:
            active = [other.share for other in self._by_number if other.wanting]
            tenant.share = tenant.share.lifted(active, self._floor)
        before = bool(tenant.wanting)
        (tenant.wanting.add if wanted else tenant.wanting.discard)(pid)
        if before and not tenant.wanting:
            self._floor = max(self._floor, tenant.share.counter)

    def charged(self, charges: Iterable[Charge]) -> list[tuple[Tenant, int]]:
        """What a worker says. Returns who was served how many tokens."""
        served = []
        second = self._second()
        for charge in charges:
            tenant = self._by_number[charge.share]
            tenant.share = Share(tenant.share.weight, max(tenant.share.counter, charge.counter))
            tenant.served_tokens += charge.tokens
            if not self._lately or self._lately[-1][0] != second:
                self._lately.append((second, {}))
            window = self._lately[-1][1]
            window[tenant.number] = window.get(tenant.number, 0) + charge.tokens
            served.append((tenant, charge.tokens))
        return served

    def all(self) -> list[Tenant]:
        """Those who came since the daemon started, and those with keys."""
        for name in self._weights():
            self.of(name)
        return list(self._by_number)

    def wanted_share(self, tenant: Tenant) -> float | None:
        """Of what is served now, by weight among those who want something; None when it wants nothing."""
        if not tenant.wanting:
            return None
        return tenant.share.weight / sum(other.share.weight for other in self._by_number if other.wanting)

    def served_share(self, tenant: Tenant) -> float | None:
        """Of the tokens served in the last limits.SHARE_WINDOW_S; None when none were."""
        since = self._second() - int(limits.SHARE_WINDOW_S.value)
        while self._lately and self._lately[0][0] <= since:
            self._lately.popleft()
        total = sum(sum(window.values()) for _, window in self._lately)
        return sum(window.get(tenant.number, 0) for _, window in self._lately) / total if total else None

    def _second(self) -> int:
        return int(self._clock.monotonic_s())
