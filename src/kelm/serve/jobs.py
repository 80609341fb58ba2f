"""The doors of jobs: start one, look at it, read its log; and cancel, which works on a process of any kind."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.serve import replies
from kelm.serve.ports import Call
from kelm.serve.requests import JobRequest
from kelm.store.names import Name
from kelm.wire import jobs


async def answer_start(call: Call, body: JobRequest) -> Response:
    """Answers when the job is on disk. Raises ModelNotFound, InvalidRequest, Overloaded, StoreError."""
    await asyncio.to_thread(_check, call, body)
    job = await call.kernel.jobs.submit(body.spec, None if body.data is None else body.data.encode())
    return replies.reply(job.row())


async def answer_list(call: Call) -> Response:
    """Those that have ended too. Keys: kelm.kernel.job.BackgroundJob.row."""
    return replies.reply({"jobs": call.kernel.jobs.rows(ended=True)})


async def answer_one(call: Call, pid: str) -> Response:
    return replies.reply(call.kernel.jobs.get(_number("pid", pid)).row())


async def answer_log(call: Call, pid: str, start: str) -> Response:
    """``text`` from byte ``start`` on, ``next``: where to go on, ``state``: an end state without text is the end."""
    return replies.reply(await call.kernel.jobs.read_log(_number("pid", pid), _number("start", start, least=0)))


async def answer_cancel(call: Call, pid: str) -> Response:
    """Answers when the process has ended: its ``state`` says how."""
    number = _number("pid", pid)
    return replies.reply({"pid": number, "state": await call.kernel.cancel(number)})


def _check(call: Call, body: JobRequest) -> None:
    """What can be refused before anything is written."""
    call.store.resolve(body.spec.model)
    if isinstance(body.spec, jobs.Tune):
        Name.parse(f"{body.spec.base}@{body.spec.variant}")
    if body.spec.file is not None and not body.data:
        raise InvalidRequest(f"{body.spec.file:.80} is empty: there is nothing to learn from", param="data")


def _number(field: str, text: str, least: int = 1) -> int:
    most = int(limits.JOB_ID.most)
    value: Any = int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else -1
    if not least <= value <= most:
        got = limits.shown(text)
        raise InvalidRequest(f"{field} must be an integer from {least} to {most}, got {got}", param=field)
    return int(value)
