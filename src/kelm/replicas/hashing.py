"""Which replica a request belongs to: rendezvous hashing of its prefix, so that KV is where it was.

    key       model, and the beginning of what the model will read: as much as all turns of a conversation share
    order     replicas by hash(replica, key), highest first (Thaler and Ravishankar 1998); the first that is up takes it

Every replica is first for an equal part of all keys. When one goes, its keys go to their second choices, spread over
the others, and no other key moves; when it comes back, they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

PREFIX_BYTES = 1024
"""About 256 tokens: longer system prompts are told apart by their beginnings alone."""
_SCORE_BYTES = 8


def order(replicas: Iterable[str], key: bytes) -> list[str]:
    """The replicas by preference for ``key``; the same whatever order they come in."""
    return sorted(replicas, key=lambda name: (_score(name, key), name), reverse=True)


def prefix_key(path: str, body: Any) -> bytes:
    """What requests that begin alike have in common. ``body`` is any JSON value; what is malformed has a key too."""
    if not isinstance(body, dict):
        return _key(None, path, b"")
    model = body.get("model")
    if "messages" in body:
        return _key(model, "messages", b"".join(_opening(body["messages"])))
    given = next((body[name] for name in ("prompt", "input", "query", "text_1") if name in body), None)
    return _key(model, "prompt", _text(given))


def _score(name: str, key: bytes) -> int:
    salted = hashlib.sha256(name.encode()).digest() + key  # of one length, so that no two pairs look alike
    return int.from_bytes(hashlib.sha256(salted).digest()[:_SCORE_BYTES], "big")


def _key(model: object, kind: str, prefix: bytes) -> bytes:
    return msgspec.json.encode([model if isinstance(model, str) else None, kind]) + prefix[:PREFIX_BYTES]


def _opening(messages: object) -> Iterable[bytes]:
    """The messages up to the first one of the user, which is where a conversation stops being like others: later turns
    add to it and don't change it."""
    for message in messages if isinstance(messages, list) else ():
        yield msgspec.json.encode(message)
        if isinstance(message, dict) and message.get("role") == "user":
            return


def _text(given: object) -> bytes:
    """A prompt, or the first of several; token ids as they are written."""
    if isinstance(given, str):
        return given[:PREFIX_BYTES].encode(errors="surrogatepass")
    if isinstance(given, Sequence) and given:
        return _text(given[0]) if isinstance(given[0], str | list) else msgspec.json.encode(given[:PREFIX_BYTES])
    return b""
