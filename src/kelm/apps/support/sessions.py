"""Who is who, by cookies: a customer's session, and a person who knows the desk's key.

Both cookies are HttpOnly (no script reads them) and SameSite=Strict (no other site's page sends them).
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from kelm.apps.support.conversations import digest
from kelm.errors import StoreError, Unauthorized

CUSTOMER, AGENT = "kelm_customer", "kelm_agent"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,64}")
_YEAR_S = 365 * 24 * 3600


def session(request: Request) -> str | None:
    """The digest of the customer's token; None without one."""
    token = request.cookies.get(CUSTOMER, "")
    return digest(token) if _TOKEN.fullmatch(token) else None


def known(request: Request) -> str:
    """As `session`; raises Unauthorized without one."""
    found = session(request)
    if found is None:
        raise Unauthorized("this page has lost its session; load it again")
    return found


def give_session(response: Response) -> None:
    """A new session, for whoever gets this response."""
    _set(response, CUSTOMER, secrets.token_urlsafe(32), _YEAR_S)


class Agents:
    """Persons at /desk. ``key``: whoever knows it is one; it comes with the folder, file ``agents.key``."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._proof = hmac.new(key.encode(), b"kelm support agent", "sha256").hexdigest()

    def enter(self, response: Response, key: str) -> None:
        """Raises Unauthorized for a wrong key."""
        if not hmac.compare_digest(digest(key), digest(self.key)):
            raise Unauthorized("this is not the desk's key; it is in the file agents.key, and `kelm support` prints it")
        _set(response, AGENT, self._proof, None)

    def check(self, request: Request) -> None:
        """Raises Unauthorized unless the request comes from somebody who entered."""
        if not hmac.compare_digest(request.cookies.get(AGENT, "").encode(), self._proof.encode()):
            raise Unauthorized("enter the desk's key first")


def read_key(folder: Path) -> str:
    """The key in ``folder``/agents.key, made when there is none. Raises StoreError."""
    path = folder / "agents.key"
    try:
        if not path.exists():
            _write_key(path)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} can't be read or made: {error}") from None
    if not _TOKEN.fullmatch(key):
        raise StoreError(f"{path} holds no key: delete it and start again, then there is a new one")
    return key


def _write_key(path: Path) -> None:
    """Readable by its owner only from its first byte on, whole or absent."""
    temp = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_urlsafe(24) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temp.replace(path)


def _set(response: Response, name: str, value: str, seconds: int | None) -> None:
    response.set_cookie(name, value, max_age=seconds, path="/", httponly=True, samesite="strict")
