"""Keeps one worker alive: starts it, watches it, starts the next one when it is gone.

    start ──► hello ──► up ──► gone: exited, lost its socket, broke the protocol, or hung
      ▲   (in time)                     │
      └───────── back-off ◄─────────────┘      doubles with each death without a step in between

A worker counts as gone only after its last report was read, so that no token it sent is asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from kelm import limits
from kelm.clock import Clock
from kelm.errors import Unavailable
from kelm.kernel.child import WORKER, Child, NeverUp
from kelm.wire.messages import Command, Encoded, Hello, Quit, Report, Step, StepBegin

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told what happens to the worker."""

    def worker_up(self, hello: Hello) -> None: ...

    def worker_down(self, reason: str) -> None: ...

    def worker_hopeless(self, reason: str) -> None:
        """limits.WORKER_START_TRIES starts in a row failed. It is tried on; nobody should wait for it."""
        ...

    def report(self, report: Report) -> None: ...


class Supervisor:
    """``command`` is the worker's command line, without its socket."""

    def __init__(self, command: Sequence[str], clock: Clock, listener: Listener) -> None:
        self._command = tuple(command)
        self._clock = clock
        self._listener = listener
        self._child: Child[Report, Hello] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._heard_s = 0.0
        self._busy = False
        self._failed_starts = 0
        self._barren_deaths = 0
        """In a row, without a step in between."""
        self._in_step = False
        self.restarts = 0
        self.hello: Hello | None = None
        """Of the worker that is up; None between two."""

    async def start(self) -> None:
        """Wait for the first worker's hello. Raises Unavailable when it doesn't come; nothing is left running then."""
        up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(up), name="worker-supervisor")
        await up

    def send(self, command: Command) -> None:
        """To the worker that is up; dropped between two."""
        if self.hello is not None and self._child is not None:
            self._child.send(command)

    @property
    def backlog_bytes(self) -> int:
        return 0 if self._child is None else self._child.backlog_bytes

    @property
    def os_pid(self) -> int | None:
        return None if self._child is None else self._child.os_pid

    def watch(self, busy: bool) -> None:
        """Called regularly. Kills a worker that has work and has reported nothing for limits.WORKER_HANG_S."""
        busy = busy and self.hello is not None
        now_s = self._clock.monotonic_s()
        if busy and not self._busy:
            self._heard_s = now_s
        self._busy = busy
        silent_s = now_s - self._heard_s
        if busy and self._child is not None and silent_s > limits.WORKER_HANG_S.value:
            self._child.kill(f"it hung: work to do and no report for {silent_s:.1f} s")

    async def stop(self) -> None:
        """Quit, and SIGKILL after limits.WORKER_QUIT_S. When this returns the worker is dead and reaped."""
        self._stop.set()
        if self._task is None:
            return
        self.send(Quit())
        if self.hello is None and self._child is not None:
            self._child.kill("the daemon stops")
        await asyncio.wait([self._task], timeout=limits.WORKER_QUIT_S.value)
        if self._child is not None:
            self._child.kill("it did not quit in time")
        await self._task

    async def _run(self, up: asyncio.Future[None]) -> None:
        while not self._stop.is_set():
            try:
                child = self._child = await Child.spawn(self._command, WORKER, self._report)
            except OSError as error:
                self._start_failed(f"it can't be run: {error.strerror}", up)
            else:
                await self._one_life(child, up)
                self._child = None
            await self._back_off()

    async def _one_life(self, child: Child[Report, Hello], up: asyncio.Future[None]) -> None:
        try:
            self.hello = await child.hello()
        except NeverUp as error:
            child.kill(str(error))
            self._start_failed(await child.gone(), up)
            return
        self._failed_starts = 0
        log.info("worker_up pid=%d threads=%d numerics=%s", child.os_pid, self.hello.threads, self.hello.numerics)
        self._listener.worker_up(self.hello)
        if not up.done():
            up.set_result(None)
        reason = await child.gone()
        self.hello = None
        self._in_step = False
        self._barren_deaths += 1
        if not self._stop.is_set():
            self.restarts += 1
            log.warning("worker_died pid=%d reason=%r restarts=%d", child.os_pid, reason, self.restarts)
            self._listener.worker_down(reason)

    def _start_failed(self, reason: str, up: asyncio.Future[None]) -> None:
        if self._stop.is_set():
            return
        log.error("worker_start_failed reason=%r", reason)
        self._failed_starts += 1
        self._barren_deaths += 1
        if not up.done():
            self._stop.set()
            up.set_exception(Unavailable(f"the worker did not start: {reason}; the log has its last words"))
        elif self._failed_starts >= limits.WORKER_START_TRIES.value:
            self._listener.worker_hopeless(reason)

    def _report(self, report: Report) -> None:
        self._heard_s = self._clock.monotonic_s()
        if isinstance(report, StepBegin):
            self._in_step = True
        elif isinstance(report, Encoded) or (isinstance(report, Step) and self._in_step):
            self._in_step, self._barren_deaths = False, 0
        self._listener.report(report)

    async def _back_off(self) -> None:
        first = limits.RESTART_BACKOFF_S
        seconds = min(first.value * 2 ** min(self._barren_deaths - 1, 16), first.most)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
