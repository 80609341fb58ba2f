"""JSON answers, and OpenAI's error shape for everything that goes wrong.

{"error": {"message": ..., "type": ..., "param": ... or null, "code": ...}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from kelm.errors import KelmError

INTERNAL = KelmError("the daemon failed to answer this request; its log says why")
"""What a client is told about an error that is our own bug."""

_encode = msgspec.json.Encoder().encode


def encode(content: Any) -> bytes:
    """JSON bytes. NaN and infinity have no JSON form; doors turn them into numbers before."""
    return _encode(content)


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(content), status, headers, "application/json")


def error_body(error: KelmError) -> dict[str, Any]:
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code},
    }


def error_reply(error: KelmError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for ``error``, with Retry-After (whole seconds, rounded up) where it carries one."""
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return reply(error_body(error), error.status, extra)
