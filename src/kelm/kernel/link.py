"""The socket to one child process (a worker, a job): commands out, reports in, in order, each way bounded.

A report is handled as it is read, so a child that reports faster than the daemon handles fills the socket and
waits. Commands that it doesn't read yet are counted in ``backlog_bytes``, which admission looks at.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from kelm.wire import framing

R = TypeVar("R")
_READ_BYTES = 8 * 1024
"""At most so much is handled before the loop looks after others: about 20 ms of reports of one token each."""


class Link(asyncio.BufferedProtocol, Generic[R]):
    """``on_report`` gets every report (of the union ``kind``), then ``on_lost`` once, with the reason, after the last
    one."""

    def __init__(self, kind: Any, on_report: Callable[[R], None], on_lost: Callable[[str], None]) -> None:
        self._on_report = on_report
        self._on_lost = on_lost
        self._reader: framing.Reader[R] = framing.Reader(kind)
        self._buffer = bytearray(_READ_BYTES)
        self._transport: asyncio.Transport | None = None
        self._why = "it closed its socket"

    @classmethod
    async def over(
        cls, sock: socket.socket, kind: Any, on_report: Callable[[R], None], on_lost: Callable[[str], None]
    ) -> Link[R]:
        """Take over one end of a connected pair."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(kind, on_report, on_lost), sock=sock)
        return link

    def send(self, command: msgspec.Struct) -> None:
        """Queue a command; never blocks. Nothing happens on a link that is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framing.encode(command))

    @property
    def backlog_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self, why: str) -> None:
        """Drop the connection now; ``on_lost`` follows with this reason."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            reports = self._reader.feed(bytes(memoryview(self._buffer)[:nbytes]))
        except framing.WireError as error:
            self.close(f"it broke the protocol: {error.message}")
            return
        for report in reports:
            self._on_report(report)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self._why if exc is None else f"its socket failed: {exc}")
