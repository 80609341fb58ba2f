"""uvicorn's HTTP/1.1 protocol with bounds: header bytes, header time, connections, and readers that read nothing.

What is refused here has no ASGI scope yet, so the answer is written by hand, in the same shape as every other error.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kelm import limits
from kelm.errors import HeadersTooLarge, InvalidRequest, KelmError, RequestTimeout, Unavailable
from kelm.serve import replies

_MOST_BYTES = int(limits.HEADER_BYTES.most)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._within(limits.HEADER_TIMEOUT_S, self._head_too_slow)
        if len(self.connections) > limits.CONNECTIONS.value:
            self._refuse(Unavailable("too many connections are open; try again later"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._cancel_stall()
        super().connection_lost(exc)

    # reading

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _MOST_BYTES:
            self._refuse(_headers_too_large(self._head_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._within(limits.HEADER_TIMEOUT_S, self._head_too_slow)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_time()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > _MOST_BYTES:
            self._refuse(_headers_too_large(size))
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._in_time()
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer that did not need the body: what is left of it is dropped, but not for ever."""
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():
            self._within(limits.HEADER_TIMEOUT_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """What httptools could not parse."""
        self._refuse(InvalidRequest("this is not a valid HTTP/1.1 request"))

    # writing

    def pause_writing(self) -> None:
        """The client's side is full. A client that takes nothing for long is cut off, buffered bytes and all."""
        super().pause_writing()
        self._stall = self.loop.call_later(limits.STALL_TIMEOUT_S.value, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stall()

    def _head_too_slow(self) -> None:
        seconds = limits.HEADER_TIMEOUT_S.value
        self._refuse(RequestTimeout(f"the headers were not complete within {seconds} seconds"))

    def _refuse(self, error: KelmError) -> None:
        """Answer, then drop what still comes for a while: closing on unread bytes would take the answer back."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        body = replies.encode(replies.error_body(error))
        phrase = http.HTTPStatus(error.status).phrase
        head = (
            f"HTTP/1.1 {error.status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.write_eof()
        self._within(limits.LINGER_S, self.transport.abort)

    def _within(self, bound: limits.Bound, too_late: Callable[[], None]) -> None:
        self._in_time()
        self._deadline = self.loop.call_later(bound.value, too_late)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _headers_too_large(size: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"the headers are over the limit of {_MOST_BYTES} bytes (at least {size} were sent)")
