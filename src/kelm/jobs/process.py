"""The process of one job: below everything else on the machine, dead when its daemon is.

    main thread     Began ──► Start ──► the job's function ──► Done or Failed ──► exit 0
    a thread        reads Stop, and leaves at once when the daemon's end of the socket closes

Memory beyond ``memory_bytes`` is refused by the system (RLIMIT_DATA), so that a job that is too large for its share
ends in an error of its own instead of somebody else's.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from kelm import limits
from kelm.clock import SYSTEM
from kelm.context import Context
from kelm.errors import Cancelled, KelmError, OutOfMemory, StoreError, WorkerFailed
from kelm.wire.framing import Reader, WireError, encode
from kelm.wire.jobs import PROTOCOL, Began, Done, Failed, Order, Progress, Report, Start, Stop

log = logging.getLogger(__name__)

_OOM_SCORE = 900
"""Above the serving worker's: when memory ends, a job goes first."""
_NICE = 19
_PR_SET_PDEATHSIG = 1
_RUNTIME_BYTES = 1 << 30
"""What the interpreter, torch and its threads reserve before a model is there."""
_ORPHANED = 1


class JobProcess:
    """``run`` returns the exit code: 0 after a last word, or when it was asked to stop."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stop = threading.Event()
        self._over = False

    def run(self) -> int:
        self._send(Began(PROTOCOL, os.getpid()))
        _step_back()  # not before: a busy machine leaves an idle process no time to say hello in
        reader: Reader[Order] = Reader(Order)
        orders = self._receive(reader)
        if not orders or not isinstance(orders[0], Start):
            return _ORPHANED
        if len(orders) > 1:
            self._stop.set()
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        word = self._work(orders[0])
        if word is not None:
            self._send(word)
        self._over = True
        return 0

    def _work(self, start: Start) -> Report | None:
        """Its last word; None when it was asked to stop."""
        _limit_memory(start.memory_bytes)
        # Read by tensor libraries when they are imported, which no import above does.
        os.environ.update(OMP_NUM_THREADS=str(start.threads), OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")
        try:
            from kelm.jobs import kinds

            return Done(kinds.run(start.spec, self._context(start)))
        except Cancelled as error:
            return None if self._stop.is_set() else Failed(error.code, error.message)
        except Exception as error:
            known = _charge(error, start.memory_bytes)
            _print(f"failed: {known.message}")
            return Failed(known.code, known.message)

    def _context(self, start: Start) -> Context:
        return Context(
            pid=start.pid,
            home=Path(start.home),
            folder=Path(start.folder),
            threads=start.threads,
            memory_bytes=start.memory_bytes,
            send=self._report,
            line=_print,
            stopping=self._stop.is_set,
        )

    def _report(self, progress: Progress) -> None:
        self._send(progress)

    def _listen(self, reader: Reader[Order]) -> None:
        """Thread: nothing but Stop comes, or the end."""
        while orders := self._receive(reader):
            if any(isinstance(order, Stop) for order in orders):
                self._stop.set()
        if not self._over:
            os._exit(_ORPHANED)

    def _receive(self, reader: Reader[Order]) -> list[Order]:
        """The next orders, at least one; none when the daemon is gone."""
        orders: list[Order] = []
        with suppress(OSError, WireError):
            while not orders and (data := self._socket.recv(1 << 16)):
                orders = reader.feed(data)
        return orders

    def _send(self, report: Report) -> None:
        self._socket.sendall(encode(report))


def serve(descriptor: int) -> int:
    """Do the job that comes over an inherited socket. Returns the exit code."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the daemon
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with socket.socket(fileno=descriptor) as connection, suppress(BrokenPipeError, ConnectionResetError):
        return JobProcess(connection).run()
    return _ORPHANED


def _step_back() -> None:
    """Below everybody: threads that start later inherit it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _limit_memory(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = memory_bytes + _RUNTIME_BYTES
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _charge(error: Exception, memory_bytes: int) -> KelmError:
    """The error that a user is told; what is nobody's mistake but ours has its trace in the log."""
    if isinstance(error, KelmError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return OutOfMemory(
            f"the job needed more than its share of memory, {memory_bytes >> 20} MiB; set KELM_JOB_MEMORY higher "
            "before the daemon starts, or take a smaller model"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("the disk of KELM_HOME is full; free some space and start the job again")
    log.error("job_failed", exc_info=error)
    return WorkerFailed(f"the job failed ({type(error).__name__}); its log says more")


def _print(text: str) -> None:
    """A line of the log: time of day, and text without control characters."""
    import datetime

    now = datetime.datetime.fromtimestamp(SYSTEM.wall_s()).strftime("%H:%M:%S")
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    sys.stdout.write(f"{now} {clean[: int(limits.JOB_LINE_BYTES.value)]}\n")
    sys.stdout.flush()
