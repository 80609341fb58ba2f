"""Around every request: who may come in, how much they may send, and what a browser may do with the answer.

The ideas are the daemon's gate's: on loopback a Host that is not this machine is a page that rebound its name, and an
Origin that is not the address it asks is another site's script. The policy lets a page load nothing but our own files.
"""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kelm.apps.support.replies import error_reply
from kelm.errors import Forbidden, InvalidRequest, KelmError
from kelm.origin import Headers, host_of, is_loopback, same_origin, values

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_FAILED = KelmError("the desk failed to answer this request; its log says why")


class Gate:
    """``host``: the address that the desk listens on."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._app = app
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        error = self._refusal(scope["headers"])
        inner: ASGIApp = self._app if error is None else error_reply(error)
        try:
            await inner(scope, receive, stamped)
        except Exception:
            log.exception("request_failed")
            if not started:
                await error_reply(_FAILED)(scope, receive, stamped)

    def _refusal(self, headers: Headers) -> KelmError | None:
        hosts = values(headers, b"host")
        host = host_of(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return InvalidRequest("exactly one Host header with a host name is needed", param="host")
        if self._loopback and not is_loopback(host):
            return Forbidden("this desk listens on loopback and answers to this machine's own names only")
        if not all(same_origin(origin, hosts[0]) for origin in values(headers, b"origin")):
            return Forbidden("scripts of other origins may not use this desk")
        return None
