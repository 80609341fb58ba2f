"""The only importer of ``time``: everything else is given a Clock, so that it can be simulated."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds. ``monotonic_s`` for durations and deadlines, ``wall_s`` (Unix time) for display only."""

    def monotonic_s(self) -> float: ...

    def wall_s(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    def sleep_s(self, seconds: float) -> None:
        """Block the calling thread; never used on the event loop."""
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to, for tests and the simulator."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def monotonic_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


SYSTEM = SystemClock()
