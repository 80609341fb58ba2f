"""One daemon: bind, serve, drain, leave.

SIGTERM, SIGINT or POST /admin/shutdown
    -> the kernel admits nobody (503 to new work, health still answers), running work has drain_s
    -> the listening socket closes, open answers are ended, exit code 0
a second signal ends the process at once
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from kelm import limits
from kelm.config import Settings
from kelm.errors import ConfigError
from kelm.kernel.kernel import Kernel
from kelm.origin import is_loopback
from kelm.serve.access import Access
from kelm.serve.app import create_app
from kelm.serve.gate import check_exposure
from kelm.serve.protocol import BoundedProtocol
from kelm.store.store import Store

log = logging.getLogger(__name__)

_CLOSE_S = 1
"""What answers that were just ended have to be written out."""
_LEFT_AT_ONCE = 130
_BACKLOG = 1024


def bind(settings: Settings) -> socket.socket:
    """The listening socket, before anything else is started. Port 0 takes a free one.

    Raises ConfigError for a host that needs a key and has none, can't be had, or whose port is in use.
    """
    check_exposure(settings.host, settings.api_key)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)  # from here on the port is ours, and early clients wait
    except OSError as error:
        why = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigError(f"can't listen on {settings.host}:{settings.port}: {why}", param="port") from None
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn with our end: the first signal drains, the second leaves; the exit code stays 0."""

    def __init__(self, config: uvicorn.Config, kernel: Kernel) -> None:
        super().__init__(config)
        self._kernel = kernel
        self._loop = asyncio.get_running_loop()
        self._asked = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(_LEFT_AT_ONCE)
        self._asked = True
        log.info("signal_received name=%s", signal.Signals(sig).name)
        self._loop.call_soon_threadsafe(self._kernel.request_shutdown)


async def serve(kernel: Kernel, store: Store, settings: Settings, listener: socket.socket) -> None:
    """Serve until somebody asks for the end, then drain. The kernel is started and ended in here."""
    access = Access(settings.api_key, kernel.keys, kernel.token, trusting=is_loopback(settings.host))
    server = _Server(_uvicorn_config(create_app(kernel, store, settings, access=access)), kernel)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await kernel.start()
        log.info("daemon_ready address=http://%s:%d/v1", settings.host, settings.port)
        await _either(serving, asyncio.create_task(kernel.shutdown_requested.wait()))
    finally:
        await kernel.drain(settings.drain_s)
        server.should_exit = True
        await serving
    log.info("daemon_stopped")


def _uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(limits.KEEP_ALIVE_S.value),
        timeout_graceful_shutdown=_CLOSE_S,
    )


async def _either(serving: asyncio.Task[None], asked: asyncio.Task[bool]) -> None:
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
