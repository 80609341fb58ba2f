"""The worker process: commands come in over a socket, reports go out, steps run in between, all in one thread.

    loop    work to do?  no: wait for a command   yes: take what has come, without waiting
            one encoding, if one waits
            one step
    end     Quit: exit code 0      the daemon's end closed, or rubbish came: exit code 1, so that nobody takes it
            for a normal end

Reading between steps bounds how late a cancel is (one step), and writing blocks when the daemon does not read.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
from contextlib import suppress
from pathlib import Path

from kelm.errors import KelmError, OutOfMemory
from kelm.wire.framing import Reader, WireError, encode
from kelm.wire.messages import (
    PROTOCOL,
    Cancel,
    Command,
    Encode,
    Failed,
    Hello,
    Load,
    LoadFailed,
    Pause,
    Quit,
    Renice,
    Report,
    Resume,
    Submit,
    Unload,
    Unloaded,
)
from kelm.worker.encodings import Encodings
from kelm.worker.engine import Engine
from kelm.worker.numerics import numerics_id
from kelm.worker.opened import Opener
from kelm.worker.settings import EngineSettings

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
_OOM_SCORE = 500
"""When the machine runs out of memory a worker goes before the daemon: it can be started again."""


class WorkerProcess:
    """One life. ``run`` returns the exit code."""

    def __init__(self, connection: socket.socket, settings: EngineSettings, opener: Opener) -> None:
        self._socket = connection
        self._settings = settings
        self._reader: Reader[Command] = Reader(Command)
        self._engine = Engine(settings, opener, self._send)
        self._encodings = Encodings(self._engine.bill)
        self._quit = False

    def run(self) -> int:
        try:
            threads, executor = self._settings.threads, self._settings.executor
            self._send(Hello(PROTOCOL, os.getpid(), threads, numerics_id(threads, executor)))
            while self._receive():
                self._work()
        except WireError as error:
            log.error("worker_protocol error=%s", error.message)
            return 1
        except (BrokenPipeError, ConnectionResetError):
            log.warning("worker_orphaned")
            return 1
        return 0 if self._quit else 1

    def _receive(self) -> bool:
        """Carry out the commands that have come. False: leave now."""
        idle = not (self._encodings or self._engine.has_work())
        if not idle and not select.select([self._socket], [], [], 0)[0]:
            return True
        data = self._socket.recv(_READ_BYTES)
        if not data:
            log.warning("worker_orphaned")
            return False
        for command in self._reader.feed(data):
            if isinstance(command, Quit):
                self._quit = True
                return False
            self._carry_out(command)
        return True

    def _work(self) -> None:
        if self._encodings:
            request = self._encodings.take()
            try:
                self._send(self._engine.encode(request))
            except Exception as error:
                self._send(Failed(request.pid, *_charge(error)))
        if self._engine.has_work() and (step := self._engine.step()) is not None:
            self._send(step)

    def _carry_out(self, command: Command) -> None:
        """An error is charged to the process or model that the command is about."""
        try:
            self._dispatch(command)
        except Exception as error:
            code, message = _charge(error)
            if isinstance(command, Load):
                missing = error.missing_bytes if isinstance(error, OutOfMemory) else 0
                self._send(LoadFailed(command.model, code, message, missing))
            elif isinstance(command, Unload):
                self._send(Unloaded(command.model))
            elif isinstance(command, Submit):
                self._send(Failed(command.pid, code, message))

    def _dispatch(self, command: Command) -> None:
        engine = self._engine
        match command:
            case Load():
                self._send(engine.load(command))
            case Unload():
                engine.unload(command.model)
                self._send(Unloaded(command.model))
            case Submit():
                engine.submit(command)
            case Encode():
                self._encodings.put(command)
            case Cancel():
                self._cancel(command)
            case Pause():
                engine.pause(command.pid)
            case Resume():
                engine.resume(command.pid, command.counter)
            case Renice():
                engine.renice(command.pid, command.priority)
                self._encodings.renice(command.pid, command.priority)

    def _cancel(self, command: Cancel) -> None:
        self._encodings.cancel(command.pid)
        self._engine.cancel(command)

    def _send(self, report: Report) -> None:
        self._socket.sendall(encode(report))


def _charge(error: Exception) -> tuple[str, str]:
    """Code and message of an error that ends one command's work and nothing else."""
    if isinstance(error, KelmError):
        return error.code, error.message
    log.error("command_failed", exc_info=error)
    return "worker_failed", f"the worker could not do this ({type(error).__name__}); its log says more"


def serve(descriptor: int, settings: EngineSettings, opener: Opener) -> int:
    """Run a worker on an inherited socket until its daemon lets it go. Returns the exit code."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the daemon, which drains
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    with socket.socket(fileno=descriptor) as connection:
        return WorkerProcess(connection, settings, opener).run()


def _die_with_parent() -> None:
    """SIGKILL when the daemon dies, even in the middle of a step. The socket's end covers a daemon dead already."""
    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0) != 0:
        log.warning("no_parent_death_signal errno=%d", ctypes.get_errno())
