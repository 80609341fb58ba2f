"""JSON in and out. Errors have the daemon's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kelm import limits
from kelm.errors import Cancelled, InvalidRequest, KelmError, PayloadTooLarge, RequestTimeout

T = TypeVar("T")


def reply(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def error_reply(error: KelmError) -> Response:
    detail = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    answer = reply({"error": detail}, error.status)
    if error.retry_after_s is not None:
        answer.headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return answer


async def read(request: Request, kind: type[T]) -> T:
    """The body as ``kind``, a struct that knows its fields. Only JSON is read, which no form of another site can send.

    Raises InvalidRequest, PayloadTooLarge, RequestTimeout, Cancelled.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest("the body must be JSON, sent as application/json", param="content-type")
    try:
        async with asyncio.timeout(limits.BODY_TIMEOUT_S.value):
            raw = await _body(request)
    except TimeoutError:
        raise RequestTimeout(f"the body was not complete within {limits.BODY_TIMEOUT_S.value} seconds") from None
    except ClientDisconnect:
        raise Cancelled("the client went away while it sent its body") from None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8 or nested too deep"
        raise InvalidRequest(f"the body is not as expected: {why}", param="body") from None


async def _body(request: Request) -> bytes:
    most = int(limits.SUPPORT_BODY_BYTES.most)
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > most:
            raise PayloadTooLarge(f"the body is over the limit of {most} bytes", param="body")
    return raw
