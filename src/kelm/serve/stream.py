"""A client that is there, and one that has gone: server-sent events, and work that ends with its client.

Framing is OpenAI's: ``data: JSON`` and an empty line for each event, ``data: [DONE]`` at the end. An error after the
headers is an event of its own, in the same shape as an error body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kelm.errors import Cancelled, KelmError
from kelm.serve import replies

T = TypeVar("T")
log = logging.getLogger(__name__)

_DONE = b"data: [DONE]\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client closes its connection (then: Cancelled).

    The request's body must have been read: what ``receive`` says next is that the client is gone.
    """
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Cancelled("the client went away")
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends each object of ``events`` as one event.

    ``holding`` is entered for as long as the client is there: leaving it ends what produces the events.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[Any], holding: AbstractContextManager[Any], headers: Mapping[str, str]
    ) -> None:
        self._events = events
        self._holding = holding
        super().__init__(headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._holding:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                await unless_gone(receive, self._pump(send))
            except Cancelled:
                log.info("stream_left id=%s", scope["state"]["request_id"])

    async def _pump(self, send: Send) -> None:
        try:
            async for event in self._events:
                await send(_body(b"data: " + replies.encode(event) + b"\n\n"))
        except KelmError as error:
            await send(_body(b"data: " + replies.encode(replies.error_body(error)) + b"\n\n"))
        except Exception:
            log.exception("stream_failed")
            await send(_body(b"data: " + replies.encode(replies.error_body(replies.INTERNAL)) + b"\n\n"))
        await send(_body(_DONE))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}
