"""Frames: a 4-byte little-endian length, then that many bytes of msgpack. Longer than the bound is a protocol error."""

from __future__ import annotations

import struct
from typing import Any, Generic, TypeVar

import msgspec

from kelm import limits
from kelm.errors import KelmError

T = TypeVar("T")
_LENGTH = struct.Struct("<I")


class WireError(KelmError):
    """The other side sent something that is not a frame of this protocol; the connection is closed."""

    code = "wire_error"


def encode(message: msgspec.Struct) -> bytes:
    """One message -> one frame, prefix included."""
    body = msgspec.msgpack.encode(message)
    if len(body) > limits.WIRE_FRAME_BYTES.most:
        raise WireError(f"a frame of {len(body)} bytes is over the bound of {limits.WIRE_FRAME_BYTES.most:g}")
    return _LENGTH.pack(len(body)) + body


class Reader(Generic[T]):
    """Cuts a byte stream into messages of a tagged union. Feed bytes, get the messages completed by them."""

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """Raises WireError on an oversized or malformed frame; the reader is unusable afterwards."""
        self._buffer += data
        messages: list[T] = []
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > limits.WIRE_FRAME_BYTES.most:
                raise WireError(f"a frame of {size} bytes is over the bound of {limits.WIRE_FRAME_BYTES.most:g}")
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                messages.append(self._decoder.decode(body))
            except msgspec.DecodeError as error:
                raise WireError(f"a frame is not a message of this protocol: {error}") from None
        return messages
