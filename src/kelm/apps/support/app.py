"""Every route of the desk on one page: the customer's, and under /desk the persons' who answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse

from kelm import limits
from kelm.apps.support import sessions
from kelm.apps.support.gate import Gate
from kelm.apps.support.pages import Pages
from kelm.apps.support.rates import Rate
from kelm.apps.support.replies import error_reply, read, reply
from kelm.apps.support.service import Service
from kelm.clock import Clock
from kelm.errors import KelmError, MethodNotAllowed, NotFound

Endpoint = Callable[[Request], Awaitable[Response]]
_MOST = 1 << 53
"""Of a message's or ticket's number: what JSON's readers hold exactly."""


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class Voted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
    vote: Literal["up", "down"] | None


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


def create_app(service: Service, pages: Pages, agents: sessions.Agents, *, host: str, clock: Clock) -> FastAPI:
    app = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={KelmError: _failed, HTTPException: _unrouted},
        middleware=[Middleware(Gate, host=host)],
    )
    customers = Customers(service, pages, clock)
    desk = Persons(service, pages, agents, clock)
    for method, path, endpoint in (*customers.routes(), *desk.routes()):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    return app


class Customers:
    """The page that asks."""

    def __init__(self, service: Service, pages: Pages, clock: Clock) -> None:
        self._service, self._pages = service, pages
        self._new = Rate(limits.SUPPORT_NEW_SESSIONS, clock)
        self._acts = Rate(limits.SUPPORT_RATE, clock)

    def routes(self) -> list[tuple[str, str, Endpoint]]:
        return [
            ("GET", "/", self.page),
            ("GET", "/articles/{name}", self.article),
            ("GET", "/files/{name}", self.file),
            ("GET", "/health", self.health),
            ("GET", "/api/conversation", self.conversation),
            ("POST", "/api/conversation/new", self.new),
            ("GET", "/api/events", self.events),
            ("POST", "/api/messages", self.ask),
            ("POST", "/api/votes", self.vote),
            ("POST", "/api/person", self.person),
        ]

    async def page(self, request: Request) -> Response:
        response = self._pages.customer(request)
        if sessions.session(request) is None:
            self._new.spend(_address(request))
            sessions.give_session(response)
        return response

    async def new(self, request: Request) -> Response:
        """Another session, so an empty conversation."""
        await read(request, Empty)
        self._new.spend(_address(request))
        response = reply({})
        sessions.give_session(response)
        return response

    async def article(self, request: Request) -> Response:
        return self._pages.article(request, request.path_params["name"])

    async def file(self, request: Request) -> Response:
        return self._pages.file(request.path_params["name"])

    async def health(self, request: Request) -> Response:
        return reply({"status": "ok"})

    async def conversation(self, request: Request) -> Response:
        return reply(await self._service.state(sessions.known(request)))

    async def ask(self, request: Request) -> Response:
        """Answers with the whole conversation when the reply is stored."""
        session, body = sessions.known(request), await read(request, Ask)
        self._acts.spend(session)
        await self._service.ask(session, body.text, self._pages.language(request))
        return reply(await self._service.state(session))

    async def vote(self, request: Request) -> Response:
        session, body = sessions.known(request), await read(request, Voted)
        self._acts.spend(session)
        await self._service.vote(session, body.message, body.vote, self._pages.language(request))
        return reply(await self._service.state(session))

    async def person(self, request: Request) -> Response:
        session = sessions.known(request)
        await read(request, Empty)
        self._acts.spend(session)
        await self._service.person(session, self._pages.language(request))
        return reply(await self._service.state(session))

    async def events(self, request: Request) -> Response:
        """Server-sent events: a State at once and after every change, with the messages since the last one. Its id is
        the last message's, which a browser sends back when it connects again."""
        session = sessions.known(request)
        last = request.headers.get("last-event-id", "0")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
        self._service.news.check(session)
        states = self._states(session, after)
        return StreamingResponse(states, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _states(self, session: str, after: int) -> AsyncIterator[bytes]:
        with self._service.news.listening(session) as event:
            while not self._service.news.over:
                event.clear()
                state = await self._service.state(session, after)
                after = max([after, *(message.id for message in state.messages)])
                yield b"id: %d\ndata: %s\n\n" % (after, msgspec.json.encode(state))
                try:
                    async with asyncio.timeout(limits.SUPPORT_HEARTBEAT_S.value):
                        await event.wait()
                except TimeoutError:
                    yield b": still here\n\n"


class Persons:
    """The page that answers. Everything but the page itself and its door needs the key."""

    def __init__(self, service: Service, pages: Pages, agents: sessions.Agents, clock: Clock) -> None:
        self._service, self._pages, self._agents = service, pages, agents
        self._tries = Rate(limits.SUPPORT_LOGINS, clock)

    def routes(self) -> list[tuple[str, str, Endpoint]]:
        return [
            ("GET", "/desk", self.page),
            ("POST", "/desk/api/enter", self.enter),
            ("GET", "/desk/api/tickets", self._known(self.tickets)),
            ("GET", "/desk/api/tickets/{number}", self._known(self.ticket)),
            ("POST", "/desk/api/tickets/{number}/reply", self._known(self.answer)),
            ("POST", "/desk/api/tickets/{number}/close", self._known(self.close)),
        ]

    def _known(self, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            self._agents.check(request)
            return await endpoint(request)

        return checked

    async def page(self, request: Request) -> Response:
        return self._pages.desk(request)

    async def enter(self, request: Request) -> Response:
        self._tries.spend(_address(request))
        response = reply({})
        self._agents.enter(response, (await read(request, Key)).key)
        return response

    async def tickets(self, request: Request) -> Response:
        closed = request.query_params.get("closed", "") == "1"
        return reply({"tickets": await self._service.tickets(closed=closed)})

    async def ticket(self, request: Request) -> Response:
        return reply(await self._service.ticket(_number(request)))

    async def answer(self, request: Request) -> Response:
        number = _number(request)
        await self._service.reply(number, (await read(request, Ask)).text)
        return reply(await self._service.ticket(number))

    async def close(self, request: Request) -> Response:
        number = _number(request)
        await read(request, Empty)
        await self._service.close(number)
        return reply(await self._service.ticket(number))


def _number(request: Request) -> int:
    text = str(request.path_params["number"])
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFound("a ticket's number is a whole number")
    return int(text)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, KelmError)
    return error_reply(error)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return error_reply(MethodNotAllowed(f"{request.method:.20} is not allowed here"))
    return error_reply(NotFound(f"there is no {request.method:.20} {request.url.path:.200}"))
