"""uvicorn's HTTP/1.1 protocol with bounds: header bytes, header time, connections, and readers that read nothing.

What is refused here has no ASGI scope yet, so the answer is written by hand, in the same shape as every other error.
"""

from __future__ import annotations

import asyncio
import http
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
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > limits.CONNECTIONS.value:
            self._refuse(Unavailable("too many connections are open; try again later"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_timer)
        self._stop(self._stall_timer)
        super().connection_lost(exc)

    # reading

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _MOST_BYTES and not self.transport.is_closing():
            self._refuse(_headers_too_large(self._head_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self._in_head = False
        self._stop(self._head_timer)
        self._head_timer = None
        if size > _MOST_BYTES:
            self._refuse(_headers_too_large(size))
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What httptools could not parse."""
        if not self.transport.is_closing():
            self._refuse(InvalidRequest("this is not a valid HTTP/1.1 request"))

    # writing

    def pause_writing(self) -> None:
        """The client's side is full. A client that takes nothing for long is cut off, buffered bytes and all."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(limits.STALL_TIMEOUT_S.value, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(self._stall_timer)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(limits.HEADER_TIMEOUT_S.value, self._head_too_slow)

    def _head_too_slow(self) -> None:
        seconds = limits.HEADER_TIMEOUT_S.value
        self._refuse(RequestTimeout(f"the headers were not complete within {seconds} seconds"))

    def _refuse(self, error: KelmError) -> None:
        body = replies.encode(replies.error_body(error))
        phrase = http.HTTPStatus(error.status).phrase
        head = (
            f"HTTP/1.1 {error.status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def _headers_too_large(size: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"the headers are over the limit of {_MOST_BYTES} bytes (at least {size} were sent)")
