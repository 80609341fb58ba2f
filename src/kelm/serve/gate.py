"""Who may come in. Pure ASGI and outermost, so that nothing runs for a stranger; it decides by ``scope["path"]``,
the same string that routes are matched with, never by a URL built from headers.

On loopback a Host that is not this machine is a page that rebound its name (DNS rebinding); an Origin that is not
the address it asks is another site's script. Both are refused; no CORS header is ever sent. Whose key it is, and what
it opens, is in access.py; it travels on as ``scope["state"]["identity"]``.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from kelm.errors import ConfigError, Forbidden, InvalidRequest, KelmError
from kelm.origin import Headers, host_of, is_loopback, same_origin, values
from kelm.serve import replies
from kelm.serve.access import Access, Identity
from kelm.serve.envelope import request_id

PUBLIC = frozenset({"/health", "/ready"})
"""What a prober without a key may ask; neither tells more than a status."""

_NOBODY = Identity("", operator=False)


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
        access: who a key's bearer is.
    """

    def __init__(self, app: ASGIApp, *, host: str, access: Access) -> None:
        self._app = app
        self._loopback = is_loopback(host)
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                identity = self._admit(scope["path"], scope["headers"])
            except KelmError as error:
                await _refuse(error, scope, receive, send)
                return
            scope.setdefault("state", {})["identity"] = identity
        await self._app(scope, receive, send)

    def _admit(self, path: str, headers: Headers) -> Identity:
        """Raises InvalidRequest, Unauthorized, Forbidden, StoreError."""
        hosts = values(headers, b"host")
        if len(hosts) != 1:
            raise InvalidRequest(f"exactly one Host header is needed, got {len(hosts)}", param="host")
        host = host_of(hosts[0])
        if host is None:
            raise InvalidRequest("the Host header is not a host name with an optional port", param="host")
        if self._loopback and not is_loopback(host):
            raise Forbidden("this daemon listens on loopback and answers to this machine's own names only")
        if not all(same_origin(origin, hosts[0]) for origin in values(headers, b"origin")):
            raise Forbidden("scripts of other origins may not use this daemon")
        return _NOBODY if path in PUBLIC else self._access.identify(_bearer(headers), path)


async def _refuse(error: KelmError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once; what comes of the body is dropped by the protocol."""
    await replies.error_reply(error, {"x-request-id": request_id(scope)})(scope, receive, send)


def _bearer(headers: Headers) -> bytes | None:
    """The key of ``Authorization: Bearer KEY``; None where there is none, or two."""
    given = values(headers, b"authorization")
    scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None
