"""`kelm cluster serve`: the door's process. It holds no model and no Ray, and outlives whatever else dies.

1 lock       KELM_HOME/cluster/run/daemon.json: one of these for each home
2 port       so that a second one fails before anything is started
3 keeper     a child that starts Ray, the nodes and the replicas; started again when it dies
4 door       open at once; 503 until the first replica is up

SIGTERM, SIGINT -> no new work, ``drain_s`` for what runs, then the door closes, and the keeper and all below it end
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from types import FrameType

import httpx2
import uvicorn
import uvloop

from kelm import limits
from kelm.clock import SYSTEM
from kelm.config import Settings
from kelm.errors import KelmError, Unavailable
from kelm.kernel.daemonfile import DaemonFile
from kelm.replicas.door import create_app
from kelm.replicas.fleet import Fleet
from kelm.replicas.forward import Forward
from kelm.replicas.homes import FOLDER
from kelm.replicas.messages import Broken, Configuration, Report
from kelm.serve.protocol import BoundedProtocol
from kelm.serve.server import bind
from kelm.store import Store
from kelm.wire.framing import Reader, encode

log = logging.getLogger(__name__)
_END_S = 20
"""What Ray and the daemons have to end."""
_CLOSE_S = 1


def run(settings: Settings, model: str, replicas: int) -> None:
    """Serve until somebody ends it. Raises InvalidRequest, ModelNotFound, ConfigError (port, host, home in use),
    Unavailable (Ray does not start)."""
    limits.REPLICAS.check(replicas)
    name = Store(settings.home).resolve(model).name
    listener = bind(settings)
    settings = replace(settings, port=listener.getsockname()[1])
    address = f"http://{settings.host}:{settings.port}"
    held = DaemonFile.acquire(settings.home / FOLDER, address, SYSTEM)
    try:
        with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Cluster(settings, name, replicas).serve(listener))
    finally:
        held.release()


class _Cluster:
    def __init__(self, settings: Settings, model: str, replicas: int) -> None:
        self._settings = settings
        self._model, self._replicas = model, replicas
        self._fleet = Fleet(f"replica-{place}" for place in range(replicas))
        self._asked = asyncio.Event()
        self._failed: KelmError | None = None
        self._ever_up, self._in_vain = False, 0

    async def serve(self, listener: socket.socket) -> None:
        async with _client() as client:
            app = create_app(self._fleet, Forward(self._fleet, client), self._settings)
            server = _Server(_uvicorn_config(app, self._settings.drain_s), self._asked)
            tasks = [asyncio.create_task(each) for each in (self._keep(), self._fleet.look(client))]
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            log.info("cluster_listens address=http://%s:%d/v1", self._settings.host, self._settings.port)
            asked = asyncio.create_task(self._asked.wait())
            await asyncio.wait({serving, asked, tasks[0]}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
            for task in (asked, *tasks):
                task.cancel()
            ended = await asyncio.gather(asked, *tasks, return_exceptions=True)
        for failure in (self._failed, *ended):
            if isinstance(failure, Exception):  # not that a task was cancelled
                raise failure

    async def _keep(self) -> None:
        """A keeper as long as the door is open; the next one when one dies. Returns when Ray does not start at all."""
        failures = 0
        while self._failed is None:
            # In /tmp: the path of a socket has to be short. Only this user can read it.
            with tempfile.TemporaryDirectory(prefix="kelm-ray-", ignore_cleanup_errors=True) as folder:
                heard = await self._one_keeper(folder)
            failures = 0 if heard else failures + 1
            await self._fleet.hear_nothing("the keeper died")
            if failures >= limits.WORKER_START_TRIES.value:
                self._failed = Unavailable("Ray's keeper died as often as it was started; see its lines above")
            await asyncio.sleep(limits.REPLICA_PAUSE_S.value)

    async def _one_keeper(self, folder: str) -> bool:
        """One keeper's life, with Ray's sockets and logs in ``folder``; whether it reported anything."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "kelm.replicas.keeper", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,  # a terminal's Ctrl-C is for the door, which drains
            )
        stream, writer = await asyncio.open_connection(sock=ours)
        settings = _of_each(self._settings, self._replicas)
        told = Configuration(str(self._settings.home), self._model, self._replicas, settings, folder)
        writer.write(encode(told))
        heard, messages = False, Reader[Report](Report)
        try:
            while self._failed is None and (data := await stream.read(1 << 16)):
                for report in messages.feed(data):
                    heard = True
                    await self._hear(report)
        except ConnectionResetError:
            pass
        finally:
            writer.close()
            await asyncio.shield(asyncio.to_thread(_end, process))
        return heard

    async def _hear(self, report: Report) -> None:
        if isinstance(report, Broken):
            self._failed = Unavailable(report.message)
            return
        await self._fleet.hear(report)
        self._ever_up = self._ever_up or report.state == "up"
        self._in_vain += report.state == "lost"
        if not self._ever_up and self._in_vain >= self._replicas * limits.WORKER_START_TRIES.value:
            self._failed = Unavailable(f"no replica came up in as many tries; the last one said: {report.why}")


class _Server(uvicorn.Server):
    """uvicorn with our end: the first signal drains, the second leaves."""

    def __init__(self, config: uvicorn.Config, asked: asyncio.Event) -> None:
        super().__init__(config)
        self._asked, self._loop = asked, asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            self.force_exit = True
        log.info("signal_received name=%s", signal.Signals(sig).name)
        self._loop.call_soon_threadsafe(self._asked.set)


def _client() -> httpx2.AsyncClient:
    """To the replicas: as many connections as requests, and no proxy that the environment may name."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log every look
    pool = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
    timeout = httpx2.Timeout(None, connect=limits.REPLICA_ANSWER_S.value)
    return httpx2.AsyncClient(timeout=timeout, limits=pool, trust_env=False)


def _uvicorn_config(app: object, drain_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(limits.KEEP_ALIVE_S.value),
        timeout_graceful_shutdown=int(drain_s) + _CLOSE_S,
    )


def _of_each(settings: Settings, replicas: int) -> dict[str, str]:
    """Each replica's settings: a part of the machine, and whatever else was set."""
    given = {
        "threads": str(max(1, settings.threads // replicas)),
        "memory": str(settings.memory // replicas),
        "dtype": settings.dtype,
        "executor": settings.executor,
        "max_num_seqs": str(settings.max_num_seqs),
        "max_queued": str(settings.max_queued),
        "step_tokens": str(settings.step_tokens),
        "drain_s": str(settings.drain_s),
        "log_level": settings.log_level,
    }
    return given if settings.api_key is None else given | {"api_key": settings.api_key}


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KELM_")}
    return kept | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its socket is closed: it ends Ray and itself."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    process.kill()  # Ray's processes are bound to it, the daemons to theirs
    process.wait()
