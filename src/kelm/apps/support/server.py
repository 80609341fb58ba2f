"""One desk: bind, prepare, serve until Ctrl-C or SIGTERM; what was acknowledged is on disk."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import uvicorn

from kelm import limits
from kelm.apps.support.app import create_app
from kelm.apps.support.database import Database
from kelm.apps.support.desk import Desk
from kelm.apps.support.doors import Address, Doors
from kelm.apps.support.pages import Pages
from kelm.apps.support.preparing import Say, prepare
from kelm.apps.support.service import Service
from kelm.apps.support.sessions import Agents, read_key
from kelm.apps.support.tuning import tune
from kelm.clock import SYSTEM
from kelm.errors import ConfigError
from kelm.origin import is_loopback

log = logging.getLogger(__name__)

FOLDER = ".desk"
_BACKLOG = 256
_CLOSE_S = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where to listen, and whether a missing variant is tuned first."""

    host: str
    port: int
    tune: bool = False


def run(desk: Desk, locate: Callable[[], Address | None], wanted: Wanted, say: Say) -> None:
    """Serve the desk. ``say`` gets every line for the terminal, the addresses last, once the doors are open.

    Raises ConfigError, StoreError, and what the daemon answers while the desk is prepared.
    """
    listener = bind(wanted.host, wanted.port)
    asyncio.run(_serve(desk, locate, wanted, listener, say))


def bind(host: str, port: int) -> socket.socket:
    """Raises ConfigError when it can't be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        why = "the port is in use, choose another with --port" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigError(f"can't listen on {host}:{port}: {why}", param="port") from None
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn that lets go of the streams when it is told to end."""

    def __init__(self, config: uvicorn.Config, service: Service, opened: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._opened = service, opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._opened()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.news.end()
        await super().shutdown(sockets)


async def _serve(
    desk: Desk, locate: Callable[[], Address | None], wanted: Wanted, listener: socket.socket, say: Say
) -> None:
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        database = Database(desk.folder / FOLDER)
        stack.callback(database.close)
        doors = Doors(locate)
        stack.push_async_callback(doors.close)
        if wanted.tune:
            await tune(desk, doors, say)
        service = Service(database, await prepare(desk, doors, database, say), SYSTEM)
        agents = Agents(read_key(desk.folder / FOLDER))
        app = create_app(service, Pages(desk), agents, host=wanted.host, clock=SYSTEM)
        url = address(wanted.host, listener.getsockname()[1])

        def opened() -> None:
            say(f"{desk.name} answers customers at {url}/")
            if not is_loopback(wanted.host):
                say("other machines can reach it: put a proxy with TLS in front of it")
            say(f"a person answers at {url}/desk#{agents.key}")

        await _Server(_config(app), service, opened).serve(sockets=[listener])


def address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{here}]' if ':' in here else here}:{port}"


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",  # bounds the size of headers by itself
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=int(limits.SUPPORT_CONNECTIONS.value),
        h11_max_incomplete_event_size=int(limits.HEADER_BYTES.most),
        timeout_keep_alive=int(limits.KEEP_ALIVE_S.value),
        timeout_graceful_shutdown=_CLOSE_S,
    )
