"""Who asks, by the headers Host and Origin: what the doors' gate and the applications' gates have in common."""

from __future__ import annotations

import ipaddress

Headers = list[tuple[bytes, bytes]]
"""ASGI's: names in lower case."""


def is_loopback(host: str) -> bool:
    """``localhost``, a name under it, or an address of the loopback network."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Every value of the header ``name``."""
    return [value for key, value in headers if key == name]


def host_of(value: bytes) -> str | None:
    """The host of ``host[:port]``; None for anything that is not one (RFC 9110, section 7.2)."""
    text = value.decode("latin-1")
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        ok = bool(closed) and all(c in "0123456789abcdefABCDEF:." for c in host) and (not port or port[0] == ":")
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        ok = bool(host) and all(c.isascii() and (c.isalnum() or c in "-._") for c in host)
    return host if ok and (not port or (port.isascii() and port.isdigit() and len(port) <= 5)) else None


def same_origin(origin: bytes, host: bytes) -> bool:
    """Whether a page of ``origin`` asks its own address, the header Host."""
    scheme, _, rest = origin.lower().partition(b"://")
    return scheme in (b"http", b"https") and rest == host.lower()
