"""The bytes that each token stands for, found by asking the checkpoint's own decoder about one token at a time.

    decoder               a token becomes                                    depends on
    ByteLevel             its bytes, through GPT-2's byte alphabet           itself
    ByteFallback          <0xE4>: that byte; else what the others make       itself, being first
    Metaspace, Strip ...  "▁the" -> " the", the text's first space dropped   itself, being first
    WordPiece, none       " the", "##s" -> "s"                               itself, being first
    BPEDecoder            "the</w>" -> "the "                                itself, being last

So a text is the concatenation of its tokens' bytes, cut into characters at the very end. That is the same text as
``tokenizers``' decode whenever the bytes are valid UTF-8; where they aren't, ``tokenizers`` replaces a whole run of
byte tokens, the valid characters in it too, and this replaces what is broken only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kelm.errors import ModelFormatError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_PROBE = "a"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


class Pieces:
    """``bytes_of(id, first)`` for every id, remembered once asked."""

    def __init__(self, description: dict[str, Any] | None, decoder: Any, token_of: Callable[[int], str | None]) -> None:
        """``description`` is tokenizer.json's ``decoder``; ``decoder`` what ``tokenizers`` built from it."""
        kinds = _flatten(description)
        names = [kind["type"] for kind in kinds]
        if "CTC" in names:
            raise ModelFormatError("tokenizer.json: decoder.type CTC (speech) is not supported")
        self._decoder = decoder
        self._token_of = token_of
        self._byte_level = "ByteLevel" in names
        self._byte_fallback = "ByteFallback" in names
        self._suffix = next((str(k.get("suffix", "</w>")) for k in kinds if k["type"] == "BPEDecoder"), None)
        self._seen: tuple[dict[int, bytes | None], dict[int, bytes | None]] = ({}, {})

    def bytes_of(self, token_id: int, first: bool) -> bytes | None:
        """What the token adds to a text, as its first token or later; None for an id without a token."""
        seen = self._seen[first]
        if token_id in seen:
            return seen[token_id]
        token = self._token_of(token_id)
        found = seen[token_id] = None if token is None else self._make(token, first)
        return found

    def tail_of(self, token_id: int) -> bytes:
        """What the token adds only if another one follows (BPEDecoder's space after a word)."""
        token = self._token_of(token_id) if self._suffix else None
        return b" " if token is not None and self._suffix and token.endswith(self._suffix) else b""

    def _make(self, token: str, first: bool) -> bytes:
        if self._byte_level:
            return _from_alphabet(token)
        byte = _BYTE_TOKEN.match(token) if self._byte_fallback else None
        if byte and int(byte[1], 16) >= 0x80:
            return bytes([int(byte[1], 16)])
        if self._suffix is not None:
            return token.replace(self._suffix, "").encode()
        if self._decoder is None:
            return (token if first else " " + token).encode()
        return self._ask(token, first).encode()

    def _ask(self, token: str, first: bool) -> str:
        if first:
            return str(self._decoder.decode([token]))
        alone = str(self._decoder.decode([_PROBE]))
        return str(self._decoder.decode([_PROBE, token])).removeprefix(alone)


def _from_alphabet(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[char] for char in token])
    except KeyError:  # an added token is written as it is
        return token.encode()


def _flatten(description: dict[str, Any] | None, depth: int = 0) -> list[dict[str, Any]]:
    if description is None:
        return []
    if not isinstance(description, dict) or not isinstance(description.get("type"), str) or depth > 8:
        raise ModelFormatError("tokenizer.json: decoder must be an object with a type")
    inner = description.get("decoders", []) if description["type"] == "Sequence" else []
    return [description] + [found for part in inner for found in _flatten(part, depth + 1)]
