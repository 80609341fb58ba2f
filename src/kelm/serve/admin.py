"""The admin door: what runs, what is loaded, load, unload, shut down. Same gate and same key as every other door."""

from __future__ import annotations

from starlette.responses import Response

from kelm.serve import replies
from kelm.serve.ports import Call
from kelm.serve.requests import EmptyRequest, ModelRequest


async def answer_processes(call: Call) -> Response:
    """Keys: kelm.kernel.control.process_row and worker_row."""
    return replies.reply({"processes": call.kernel.processes(), "worker": call.kernel.worker()})


async def answer_models(call: Call) -> Response:
    """Keys: kelm.kernel.control.model_row."""
    return replies.reply({"models": call.kernel.resident()})


async def answer_load(call: Call, body: ModelRequest) -> Response:
    """Answers when the model is resident."""
    model = await call.kernel.resolve(body.model)
    return replies.reply({"name": model.name, "state": "resident"})


async def answer_unload(call: Call, body: ModelRequest) -> Response:
    """What runs on the model, or on a variant of it, ends with an error that says so. ``unloaded``: all that went."""
    unloaded = await call.kernel.unload(body.model)
    return replies.reply({"name": body.model, "state": "unloaded", "unloaded": unloaded})


async def answer_shutdown(call: Call, body: EmptyRequest) -> Response:
    """As SIGTERM: no new work, ``drain_s`` for what runs, then the end."""
    call.kernel.request_shutdown()
    return replies.reply({"state": "shutting down"})
