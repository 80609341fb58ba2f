"""The admin door: what runs and why, what is loaded, load, unload, shut down. The operator's only (access.py)."""

from __future__ import annotations

from starlette.responses import Response

from kelm import limits
from kelm.serve import replies
from kelm.serve.ports import Call
from kelm.serve.requests import EmptyRequest, ModelRequest, NiceRequest


async def answer_processes(call: Call) -> Response:
    """Keys: kelm.kernel.control.process_row and worker_row."""
    return replies.reply({"processes": call.kernel.processes(), "worker": call.kernel.worker()})


async def answer_models(call: Call) -> Response:
    """Keys: kelm.kernel.control.model_row."""
    return replies.reply({"models": call.kernel.resident()})


async def answer_tenants(call: Call) -> Response:
    """Keys: kelm.kernel.control.tenant_row."""
    return replies.reply({"tenants": call.kernel.tenants()})


async def answer_why(call: Call, pid: str) -> Response:
    """Keys: kelm.kernel.why.explain."""
    return replies.reply(call.kernel.why(_pid(pid)))


async def answer_nice(call: Call, pid: str, body: NiceRequest) -> Response:
    """The process's line as in GET /admin/processes, with its new priority."""
    return replies.reply(call.kernel.nice(_pid(pid), body.priority))


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


def _pid(text: str) -> int:
    """Raises InvalidRequest for what can be no pid."""
    pid = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else text
    limits.PID.check(pid, field="pid")
    return int(pid)
