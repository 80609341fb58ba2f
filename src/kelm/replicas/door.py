"""The routes of the door in front of the replicas: OpenAI's and the encoders' go to them, the rest is answered here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import kelm
from kelm.config import Settings
from kelm.errors import Unavailable
from kelm.origin import is_loopback
from kelm.replicas.fleet import Fleet
from kelm.replicas.forward import Ask, Forward, ask_of
from kelm.replicas.resume import Json
from kelm.serve import app as doors
from kelm.serve import replies
from kelm.serve.access import Access
from kelm.serve.body import parse_json, read_bytes
from kelm.serve.envelope import Envelope
from kelm.serve.gate import Gate
from kelm.serve.stream import unless_gone

SENT_ON = [path for path in doors.POST if not path.startswith("/admin/")]
ASKED_OF_ANY = ["/v1/models", "/v1/models/{name:path}", "/tokenizer_info"]
_TOLD = ("authorization",)
"""Headers that replicas see as they came."""


def create_app(fleet: Fleet, forward: Forward, settings: Settings) -> Starlette:
    """The ASGI application. ``settings``: host and api_key decide who may come in; tenants' keys are the replicas'."""
    access = Access(settings.api_key, None, None, trusting=is_loopback(settings.host))

    async def post(request: Request) -> Response:
        body = parse_json(await read_bytes(request) or b"{}")
        ask = ask_of(request.scope["path"], body, _told(request))
        return await unless_gone(request.receive, forward.answer(ask))

    async def get(request: Request) -> Response:
        target = request.scope["raw_path"].decode("ascii")
        if request.scope["query_string"]:
            target += "?" + request.scope["query_string"].decode("ascii")
        return await forward.answer(Ask("GET", target, _told(request), key=b""))

    return Starlette(
        routes=[
            *(Route(path, post, methods=["POST"]) for path in SENT_ON),
            *(Route(path, get, methods=["GET"]) for path in ASKED_OF_ANY),
            *(Route(path, _answering(fleet, answer), methods=["GET"]) for path, answer in _OWN.items()),
        ],
        exception_handlers=doors.HANDLERS,
        middleware=[Middleware(Gate, host=settings.host, access=access), Middleware(Envelope)],
    )


def _health(fleet: Fleet) -> Json:
    return {"status": "ok"}


def _ready(fleet: Fleet) -> Json:
    """503 while no replica is up."""
    if not any(member.up for member in fleet.members.values()):
        raise Unavailable("no replica is up yet", retry_after_s=1)
    return {"status": "ready"}


def _version(fleet: Fleet) -> Json:
    return {"version": kelm.__version__}


def _replicas(fleet: Fleet) -> Json:
    return {"replicas": [member.row() for member in fleet.members.values()]}


_OWN: dict[str, Callable[[Fleet], Json]] = {
    "/health": _health,
    "/ready": _ready,
    "/version": _version,
    "/admin/replicas": _replicas,
}


def _answering(fleet: Fleet, answer: Callable[[Fleet], Json]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return replies.reply(answer(fleet))

    return endpoint


def _told(request: Request) -> dict[str, str]:
    """What a replica is told of the request, beside its body."""
    headers = {name: request.headers[name] for name in _TOLD if name in request.headers}
    return headers | {"content-type": "application/json", "x-request-id": request.state.request_id}
