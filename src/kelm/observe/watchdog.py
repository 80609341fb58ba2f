"""Notices when something blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from kelm.clock import Clock
from kelm.observe.metrics import Metrics

log = logging.getLogger(__name__)

PERIOD_S = 0.05
WINDOW = 300
"""Samples: 15 s."""
LOUD_S = 0.25


class LoopWatchdog:
    """Sleeps for PERIOD_S again and again; what it oversleeps is the loop's lag."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lags: deque[float] = deque(maxlen=WINDOW)

    @property
    def worst_s(self) -> float:
        """In the window."""
        return max(self._lags, default=0.0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            before_s = self._clock.monotonic_s()
            await asyncio.sleep(PERIOD_S)
            lag_s = max(0.0, self._clock.monotonic_s() - before_s - PERIOD_S)
            self._lags.append(lag_s)
            self._metrics.loop_lag.set(self.worst_s)
            if lag_s > LOUD_S:
                log.warning("event_loop_blocked seconds=%.3f", lag_s)
