"""The bytes of a body: bounded in size, time, depth and number of strings before they are parsed."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from kelm import limits
from kelm.errors import Cancelled, InvalidRequest, PayloadTooLarge, RequestTimeout
from kelm.serve import fields

T = TypeVar("T")

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


async def read(request: Request, kind: type[T]) -> T:
    """The body as a checked ``kind``. No body is an object without fields.

    Raises PayloadTooLarge, RequestTimeout, InvalidRequest (not JSON, too deep, or a field is wrong), Cancelled.
    """
    return fields.parse(kind, parse_json(await read_bytes(request) or b"{}"))


async def read_bytes(request: Request) -> bytes:
    """The whole body. One that is too large is read to its end and dropped, so that its sender hears why; a sender
    that waits for ``100 Continue`` hears at once."""
    most = int(limits.BODY_BYTES.most)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most and "expect" in request.headers:
        raise _too_large(int(announced))
    try:
        async with asyncio.timeout(limits.BODY_TIMEOUT_S.value):
            return await _receive(request.receive, most)
    except TimeoutError:
        raise RequestTimeout(
            f"the body was not complete within {limits.BODY_TIMEOUT_S.value} seconds", param="body"
        ) from None


async def _receive(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client went away while it sent its body")
        size += len(message.get("body", b""))
        if size > most:
            parts.clear()
        else:
            parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    if size > most:
        raise _too_large(size)
    return b"".join(parts)


def _too_large(size: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is {size} bytes, the limit is {limits.BODY_BYTES.most}", param="body")


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. NaN, Infinity, lone surrogates and bytes that are not UTF-8 are refused."""
    check_shape(body)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"the body is not JSON: {_plain(error)}", param="body") from None


def check_shape(body: bytes) -> None:
    """Depth, and number of strings, lists and objects, with a handful of passes at C speed instead of a parser.

    Without escapes every second piece between quotes is outside of strings. Of that only brackets are kept, and
    each round takes the innermost pairs away: one round for each level.
    """
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    _check_number(bare.count(b'"') // 2, limits.JSON_STRINGS)
    outside = b"".join(bare.split(b'"')[::2]).translate(_BRACKETS, _NOT_BRACKETS)
    _check_number(len(outside) // 2, limits.JSON_CONTAINERS)
    depth = int(limits.JSON_DEPTH.most)
    for _ in range(depth):
        if not outside:
            return
        outside = outside.replace(b"[]", b"")
    if outside:
        raise InvalidRequest(
            f"the body is nested deeper than {depth} levels, or its brackets don't match", param="body"
        )


def _check_number(found: int, bound: limits.Bound) -> None:
    if found > bound.most:
        raise InvalidRequest(f"the body holds {found} {bound.unit}, the limit is {bound.most}", param="body")


def _plain(error: Exception) -> str:
    """Without Python's own words for a codec or an integer's digits."""
    return (
        str(error) if isinstance(error, msgspec.DecodeError) else "it holds bytes that are not UTF-8 or a huge number"
    )
