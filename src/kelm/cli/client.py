"""The daemon as a client sees it: JSON over its HTTP doors, server-sent events for streams."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kelm.config import Settings
from kelm.errors import KelmError, Unavailable, by_code
from kelm.kernel import daemonfile

Json = dict[str, Any]
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What to call where a daemon listens everywhere."""


@dataclass(frozen=True, slots=True)
class Client:
    """One daemon. ``host`` and ``port`` are where it listens."""

    host: str
    port: int
    api_key: str | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def call(self, method: str, path: str, body: Json | None = None, *, timeout_s: float | None = None) -> Json:
        """One request. Raises the KelmError that the daemon answered, Unavailable when nobody answers."""
        connection = self._connect(timeout_s)
        try:
            response = self._ask(connection, method, path, body)
            raw = response.read()
        except (http.client.HTTPException, OSError) as error:
            raise self._gone(error) from None
        finally:
            connection.close()
        value = _decode(raw)
        if response.status >= 400:
            raise error_of(response.status, value)
        return value

    def events(self, path: str, body: Json) -> Generator[Json]:
        """The events of a stream, without the closing [DONE]. Leaving the loop hangs up, which cancels the request."""
        connection = self._connect(None)
        try:
            response = self._ask(connection, "POST", path, body)
            if response.status >= 400:
                raise error_of(response.status, _decode(response.read()))
            for line in response:
                event = line.strip().removeprefix(b"data: ")
                if event == b"[DONE]":
                    return
                if line.startswith(b"data: "):
                    value = _decode(event)
                    if "error" in value:
                        raise error_of(500, value)
                    yield value
            raise Unavailable("the daemon went away in the middle of the answer")
        except (http.client.HTTPException, OSError) as error:
            raise self._gone(error) from None
        finally:
            connection.close()

    def alive(self) -> bool:
        """Whether a daemon answers here."""
        try:
            self.call("GET", "/health", timeout_s=2)
        except KelmError:
            return False
        return True

    def ready(self) -> bool:
        try:
            self.call("GET", "/ready", timeout_s=2)
        except KelmError:
            return False
        return True

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Json | None
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        raw = None
        if body is not None:
            raw = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection.request(method, path, raw, headers)
        return connection.getresponse()

    def _gone(self, error: Exception) -> Unavailable:
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return Unavailable(f"no daemon runs at {self.url}: start one with `kelm serve -d`")
        return Unavailable(f"the daemon at {self.url} does not answer: {str(error) or type(error).__name__}")


def find(settings: Settings) -> Client:
    """Where the daemon is: at KELM_HOST and KELM_PORT when either is given (a port of 0 is none; nobody may be there),
    else where the daemon of KELM_HOME listens. Another home's on the default port is not taken for ours.

    Raises Unavailable when neither is known.
    """
    given = {settings.sources["host"], settings.sources["port"]} != {"default"} and settings.port != 0
    ours = of_home(settings)
    if given:
        there = Client(ANY_HOST.get(settings.host, settings.host), settings.port, settings.api_key)
        return ours if ours is not None and ours.url == there.url else there
    if ours is None:
        raise Unavailable(f"no daemon runs for {settings.home}: start one with `kelm serve -d`")
    return ours


def running(settings: Settings) -> Client | None:
    """The daemon, if it answers."""
    try:
        client = find(settings)
    except Unavailable:
        return None
    return client if client.alive() else None


def of_home(settings: Settings) -> Client | None:
    """The daemon that runs for this KELM_HOME, wherever it listens; None when none does. Where no key is set, its own
    token is the key: who can read it is its operator."""
    owner = daemonfile.owner(settings.home)
    if owner is None:
        return None
    address = urlsplit(owner.address)
    host = address.hostname or settings.host
    key = settings.api_key or owner.token or None
    return Client(ANY_HOST.get(host, host), address.port or settings.port, key)


def error_of(status: int, body: Json) -> KelmError:
    """The error that a door's body describes, as its own class."""
    detail = body.get("error")
    if not isinstance(detail, dict):
        return KelmError(f"the daemon answered {status}")
    cls = by_code(str(detail.get("code")))
    return cls(str(detail.get("message", status)), param=detail.get("param"))


def _decode(raw: bytes) -> Json:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {"data": value}
