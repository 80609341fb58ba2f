"""The application: every route on one page, around the same gate, envelope and error shape."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

import kelm
from kelm.clock import SYSTEM, Clock
from kelm.config import Settings
from kelm.errors import KelmError, MethodNotAllowed, NotFound, PayloadTooLarge, RequestTimeout
from kelm.origin import is_loopback
from kelm.serve import (
    admin,
    body,
    catalog,
    chat,
    classify,
    completions,
    embeddings,
    fields,
    jobs,
    replies,
    requests,
    score,
    status,
    tokens,
)
from kelm.serve.access import Access
from kelm.serve.envelope import Envelope
from kelm.serve.gate import Gate
from kelm.serve.ports import Call, Kernel, Shelf
from kelm.serve.stream import unless_gone

log = logging.getLogger(__name__)
T = TypeVar("T")

Post = tuple[type[Any], Callable[[Call, Any], Awaitable[Response]]]
Get = Callable[[Call], Awaitable[Response]]

POST: dict[str, Post] = {
    "/v1/completions": (requests.CompletionRequest, completions.answer),
    "/v1/chat/completions": (requests.ChatRequest, chat.answer),
    "/v1/embeddings": (requests.EmbeddingRequest, embeddings.answer),
    "/classify": (requests.ClassifyRequest, classify.answer),
    "/score": (requests.ScoreRequest, score.answer_score),
    "/v1/score": (requests.ScoreRequest, score.answer_score),
    "/rerank": (requests.RerankRequest, score.answer_rerank),
    "/v1/rerank": (requests.RerankRequest, score.answer_rerank),
    "/tokenize": (requests.TokenizeRequest, tokens.answer_tokenize),
    "/detokenize": (requests.DetokenizeRequest, tokens.answer_detokenize),
    "/admin/models/load": (requests.ModelRequest, admin.answer_load),
    "/admin/models/unload": (requests.ModelRequest, admin.answer_unload),
    "/admin/jobs": (requests.JobRequest, jobs.answer_start),
    "/admin/shutdown": (requests.EmptyRequest, admin.answer_shutdown),
}

GET: dict[str, Get] = {
    "/v1/models": catalog.answer_list,
    "/admin/processes": admin.answer_processes,
    "/admin/models": admin.answer_models,
    "/admin/jobs": jobs.answer_list,
    "/admin/tenants": admin.answer_tenants,
    "/health": status.answer_health,
    "/ready": status.answer_ready,
    "/metrics": status.answer_metrics,
    "/version": status.answer_version,
}


def create_app(
    kernel: Kernel, store: Shelf, settings: Settings, clock: Clock = SYSTEM, access: Access | None = None
) -> FastAPI:
    """The ASGI application. ``access``: who may come in; without one, host and api_key of ``settings`` decide."""
    access = access or Access(settings.api_key, None, None, trusting=is_loopback(settings.host))
    app = FastAPI(
        title="Kelm",
        version=kelm.__version__,
        docs_url=None,  # the pages would load scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={KelmError: _failed, HTTPException: _unrouted, Exception: _broken},
        middleware=[
            Middleware(Gate, host=settings.host, access=access),
            Middleware(Envelope),
        ],
    )

    def call(request: Request) -> Call:
        return Call(kernel, store, clock, request.state.request_id, request.state.identity)

    for path, (kind, post) in POST.items():
        app.add_api_route(path, _post(call, kind, post), methods=["POST"], openapi_extra=_body_schema(kind))
    for path, get in GET.items():
        app.add_api_route(path, _get(call, get), methods=["GET"])

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        return await catalog.answer_one(call(request), name)

    @app.get("/admin/jobs/{pid}")
    async def job(request: Request, pid: str) -> Response:
        return await jobs.answer_one(call(request), pid)

    @app.get("/admin/jobs/{pid}/log")
    async def job_log(request: Request, pid: str, start: str = "0") -> Response:
        return await jobs.answer_log(call(request), pid, start)

    @app.post("/admin/processes/{pid}/cancel")
    async def cancel(request: Request, pid: str) -> Response:
        await body.read(request, requests.EmptyRequest)
        return await jobs.answer_cancel(call(request), pid)

    @app.get("/admin/processes/{pid}/why")
    async def why(request: Request, pid: str) -> Response:
        return await admin.answer_why(call(request), pid)

    @app.post("/admin/processes/{pid}/nice", openapi_extra=_body_schema(requests.NiceRequest))
    async def nice(request: Request, pid: str) -> Response:
        return await admin.answer_nice(call(request), pid, await body.read(request, requests.NiceRequest))

    @app.get("/tokenizer_info")
    async def tokenizer_info(request: Request, model: str | None = None) -> Response:
        return await tokens.answer_info(call(request), model)

    return app


def _post(
    call: Callable[[Request], Call], kind: type[T], door: Callable[[Call, T], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        checked = await body.read(request, kind)

        async def work() -> Response:
            return await door(call(request), checked)

        return await unless_gone(request.receive, work())

    return endpoint


def _get(call: Callable[[Request], Call], door: Get) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await door(call(request))

    return endpoint


def _body_schema(kind: type[Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": fields.schema(kind)}}}}


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, KelmError)
    level = logging.WARNING if error.status >= 500 else logging.INFO
    log.log(level, "request_refused id=%s status=%d code=%s", request.state.request_id, error.status, error.code)
    cut_short = isinstance(error, PayloadTooLarge | RequestTimeout)  # the rest of the body may never come
    return replies.error_reply(error, {"connection": "close"} if cut_short else None)


async def _unrouted(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the same shape as ours."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method:.20} is not allowed here, use {allowed}"
        return replies.error_reply(MethodNotAllowed(message), error.headers)
    return replies.error_reply(NotFound(f"there is no {request.method:.20} {request.url.path:.200}"))


async def _broken(request: Request, error: Exception) -> Response:
    """Our own bug: the log has it (envelope.py), the client has a message without its insides."""
    return replies.error_reply(replies.INTERNAL)


HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    KelmError: _failed,
    HTTPException: _unrouted,
    Exception: _broken,
}
"""For another door with the same shape of errors (replicas/door.py)."""
