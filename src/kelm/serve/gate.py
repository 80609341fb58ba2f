"""Who may come in. Pure ASGI and outermost, so that nothing runs for a stranger; it decides by ``scope["path"]``,
the same string that routes are matched with, never by a URL built from headers.

On loopback a Host that is not this machine is a page that rebound its name (DNS rebinding); an Origin that is not
the address it asks is another site's script. Both are refused; no CORS header is ever sent. With a key, every route
but PUBLIC needs it; without one (loopback only, see ``check_exposure``) any key or none will do.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from kelm.errors import ConfigError, Forbidden, InvalidRequest, KelmError, Unauthorized
from kelm.origin import Headers, host_of, is_loopback, same_origin, values
from kelm.serve import replies
from kelm.serve.envelope import request_id

PUBLIC = frozenset({"/health", "/ready"})
"""What a prober without a key may ask; neither tells more than a status."""


def check_exposure(host: str, api_key: str | None) -> None:
    """Raises ConfigError when the daemon would be open to a network without a key."""
    if not api_key and not is_loopback(host):
        raise ConfigError(
            f"host {host} is reachable from other machines, which needs an API key: "
            "set KELM_API_KEY (or --api-key), or listen on 127.0.0.1",
            param="host",
        )


class Gate:
    """Lets a request through to ``app`` or answers it with 400, 401 or 403.

    Args:
        host: the address that the daemon listens on.
        api_key: None or empty: no key is needed.
    """

    def __init__(self, app: ASGIApp, *, host: str, api_key: str | None) -> None:
        self._app = app
        self._loopback = is_loopback(host)
        self._key = _digest(api_key.encode()) if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = self._refusal(scope["path"], scope["headers"])
            if error is not None:
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> KelmError | None:
        hosts = values(headers, b"host")
        if len(hosts) != 1:
            return InvalidRequest(f"exactly one Host header is needed, got {len(hosts)}", param="host")
        host = host_of(hosts[0])
        if host is None:
            return InvalidRequest("the Host header is not a host name with an optional port", param="host")
        if self._loopback and not is_loopback(host):
            return Forbidden("this daemon listens on loopback and answers to this machine's own names only")
        if not all(same_origin(origin, hosts[0]) for origin in values(headers, b"origin")):
            return Forbidden("scripts of other origins may not use this daemon")
        if self._key is not None and path not in PUBLIC and not self._knows_key(headers):
            return Unauthorized("a valid API key is needed: send the header Authorization: Bearer KEY")
        return None

    def _knows_key(self, headers: Headers) -> bool:
        given = values(headers, b"authorization")
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        assert self._key is not None
        return hmac.compare_digest(_digest(key.strip()), self._key) and scheme.lower() == b"bearer"


async def _refuse(error: KelmError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once; what comes of the body is dropped by the protocol."""
    await replies.error_reply(error, {"x-request-id": request_id(scope)})(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
