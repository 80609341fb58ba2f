"""GET /health, /ready, /metrics, /version: is it alive, can it work, what does it do, what is it."""

from __future__ import annotations

from starlette.responses import Response

import kelm
from kelm.errors import Unavailable
from kelm.serve import replies
from kelm.serve.ports import Call


async def answer_health(call: Call) -> Response:
    """The daemon's loop turns. Says nothing about a worker."""
    return replies.reply({"status": "ok"})


async def answer_ready(call: Call) -> Response:
    """Requests are admitted and the worker has run a real step since it started. 503 otherwise."""
    if not call.kernel.ready:
        raise Unavailable("not ready: starting, draining, or the worker has not run a step yet", retry_after_s=1)
    return replies.reply({"status": "ready"})


async def answer_metrics(call: Call) -> Response:
    metrics = call.kernel.metrics
    return Response(metrics.render(), media_type=metrics.content_type)


async def answer_version(call: Call) -> Response:
    return replies.reply({"version": kelm.__version__})
