"""Around every request: its id (echoed when the client gave one), and the end of the line for exceptions.

The id is ``scope["state"]["request_id"]`` and the header ``x-request-id`` of every answer, errors included.
"""

from __future__ import annotations

import logging
import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(scope: Scope) -> str:
    """The client's ``x-request-id`` when it is short and harmless in a log line, else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode("ascii") if _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


class Envelope:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = request_id(scope)
        scope.setdefault("state", {})["request_id"] = identity

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = identity
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except Exception as error:  # answered already (app.py), or cut short: uvicorn closes what is incomplete
            log.error("request_failed id=%s", identity, exc_info=error)
