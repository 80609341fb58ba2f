"""One life of a child process, a worker or a job: started over a socketpair, heard from, killed, reaped."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from kelm import limits
from kelm.kernel.link import Link
from kelm.wire import jobs, messages

R = TypeVar("R")
H = TypeVar("H", bound=messages.Hello | jobs.Began)

_LAST_WORDS_S = 1.0
"""After its exit its socket is read on for so long: the last reports may be on the way."""


class NeverUp(Exception):
    """It didn't say hello: why."""


@dataclass(frozen=True, slots=True)
class Language(Generic[R, H]):
    """What a kind of child says: the union of its reports, which of them comes first, and in which version."""

    reports: Any
    hello: type[H]
    protocol: int


WORKER: Language[messages.Report, messages.Hello] = Language(messages.Report, messages.Hello, messages.PROTOCOL)
JOB: Language[jobs.Report, jobs.Began] = Language(jobs.Report, jobs.Began, jobs.PROTOCOL)


class Child(Generic[R, H]):
    """Made by ``spawn``; ``gone`` must be awaited, or a zombie and two descriptors stay."""

    def __init__(
        self, popen: subprocess.Popen[bytes], language: Language[R, H], on_report: Callable[[R], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._language = language
        self._on_report = on_report
        self._hello: asyncio.Future[H] = loop.create_future()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._exited: asyncio.Future[None] = loop.create_future()
        self._link: Link[R]
        loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        language: Language[R, H],
        on_report: Callable[[R], None],
        output: int | None = None,
    ) -> Child[R, H]:
        """Start ``command`` with the number of its socket's descriptor appended; ``output``: a descriptor for what it
        prints, ours without one. OSError when it can't be run."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                popen = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,  # a terminal's Ctrl-C is for the daemon, which drains
                )
            except OSError:
                ours.close()
                raise
        child = cls(popen, language, on_report)
        child._link = await Link.over(ours, language.reports, child._on_message, child._on_lost)
        return child

    @property
    def os_pid(self) -> int:
        return self._popen.pid

    @property
    def backlog_bytes(self) -> int:
        return self._link.backlog_bytes

    def send(self, command: msgspec.Struct) -> None:
        self._link.send(command)

    async def hello(self) -> H:
        """Its first message. Raises NeverUp when that isn't a hello of our protocol within limits.WORKER_START_S."""
        either: list[asyncio.Future[Any]] = [self._hello, self._lost]
        await asyncio.wait(either, timeout=limits.WORKER_START_S.value, return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            raise NeverUp(self._lost.result())
        if not self._hello.done():
            raise NeverUp(f"it said nothing within {limits.WORKER_START_S.value:g} s")
        hello = self._hello.result()
        if hello.protocol != self._language.protocol:
            raise NeverUp(f"it speaks protocol {hello.protocol}, this daemon {self._language.protocol}")
        return hello

    def kill(self, why: str) -> None:
        """SIGKILL; ``gone`` returns soon after, with this reason."""
        if not self._exited.done():
            self._popen.kill()
        self._link.close(why)

    async def gone(self) -> str:
        """Wait until it is no more: last report read, process dead and reaped. Why, and how it exited."""
        why = await self._lost
        if not self._exited.done():
            self._popen.kill()
            await self._exited
        return f"{why} ({_exit(self._popen.wait())})"

    def _on_message(self, report: R) -> None:
        if self._hello.done():
            self._on_report(report)
        elif isinstance(report, self._language.hello):
            self._hello.set_result(report)
        else:
            self.kill(f"its first message was {type(report).__name__}, not {self._language.hello.__name__}")

    def _on_lost(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)

    def _on_exit(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._exited.set_result(None)
        loop.call_later(_LAST_WORDS_S, self._link.close, "it exited, its socket stayed open")


def _environment() -> dict[str, str]:
    """Ours without the doors' key, and with our own import path, so that it runs the code that we run."""
    kept = {name: value for name, value in os.environ.items() if name != "KELM_API_KEY"}
    return kept | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _exit(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
