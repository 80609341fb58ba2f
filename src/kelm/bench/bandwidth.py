"""The bandwidth at which this machine's threads read memory: no decode step is faster than its weights can be read."""

from __future__ import annotations

from kelm.clock import SYSTEM, Clock
from kelm.ops import native, packed

LEAST_BYTES = 1 << 16
WORD = 8
PASSES = 3


class Bandwidth:
    """A buffer of a model's size, which threads read: what fits a cache is read from the cache, as that model is.

    Raises ConfigError where there are no compiled kernels.
    """

    def __init__(self, size_bytes: int, threads: int, clock: Clock = SYSTEM) -> None:
        self._pool = native.pool(threads)
        self._buffer = packed.empty(-(-max(size_bytes, LEAST_BYTES) // WORD) * WORD)
        self._buffer.fill(1)  # a page that was never written is the one page of zeros
        self._clock = clock

    def measure(self) -> float:
        """Bytes a second, the best of some passes: whoever else uses the machine only takes away."""
        return max(self._pass() for _ in range(PASSES))

    def _pass(self) -> float:
        began_s = self._clock.monotonic_s()
        packed.read_all(self._pool, self._buffer)
        return self._buffer.size / (self._clock.monotonic_s() - began_s)
