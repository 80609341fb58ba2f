"""One gloo group: operations that end within their time, with a result or with an error that names a node.

After the first failure the connections are in no known state, so every later call raises that failure again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from kelm import limits
from kelm.clock import SYSTEM
from kelm.cluster import backend
from kelm.cluster.pulse import Pulse
from kelm.cluster.rendezvous import Meeting
from kelm.errors import NodeFailed


class Group:
    """``gloo`` is torch's; ``run`` is how it is waited for."""

    def __init__(self, meeting: Meeting, rank: int, host: str, timeout_s: float, pulse: Pulse) -> None:
        """Connects every node to every other one. Raises NodeFailed."""
        self.rank, self.size, self.timeout_s = rank, len(meeting.members), timeout_s
        self._pulse = pulse
        self._calls = 0
        try:
            self._gloo: Any = backend.gloo(meeting.store, rank, self.size, host, timeout_s)
        except RuntimeError:
            raise pulse.blame("connecting the nodes", timeout_s, self.others) from None

    @property
    def gloo(self) -> Any:
        """torch's ProcessGroupGloo."""
        if self._gloo is None:
            raise NodeFailed("this system is closed; join again")
        return self._gloo

    @property
    def others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def begin(self, name: str) -> None:
        """A collective begins: the others can be told so."""
        self._calls += 1
        self._pulse.doing(self._calls, f"{name} (its call {self._calls})")

    def run(self, what: str, start: Callable[[], backend.Work]) -> None:
        """Start a collective and wait for its end, or for somebody's failure. Raises NodeFailed."""
        deadline_s = SYSTEM.monotonic_s() + self.timeout_s
        slice_ = timedelta(seconds=limits.CLUSTER_BEAT_S.value)
        self._refuse_broken()
        try:
            work = start()
            while True:
                try:
                    work.wait(slice_)
                    return
                except RuntimeError:
                    if work.is_completed():
                        raise
                self._refuse_broken()
                if SYSTEM.monotonic_s() > deadline_s:
                    break
        except RuntimeError:  # gloo's own words name a port, which helps nobody
            pass
        raise self._pulse.blame(what, self.timeout_s, self.others)

    def pass_on(self, what: str, peer: int, timeout_s: float, start: Callable[[], backend.Work | None]) -> None:
        """Send to or receive from one node. Raises NodeFailed; gloo closes the connections when the time is up."""
        self._refuse_broken()
        try:
            work = start()
            if work is not None:
                work.wait(timedelta(seconds=timeout_s))
        except RuntimeError:
            raise self._pulse.blame(what, timeout_s, [peer]) from None

    def doing(self, what: str) -> None:
        self._pulse.doing(self._calls, what)

    def _refuse_broken(self) -> None:
        if self._pulse.fault is not None:
            raise NodeFailed(self._pulse.fault.message)

    def close(self) -> None:
        self._gloo = None
