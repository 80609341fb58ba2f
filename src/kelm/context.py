"""What the function of a job is given beside its spec; rooms with such a function (tune, ...) import it from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kelm.errors import Cancelled
from kelm.store import Store
from kelm.wire.jobs import Progress


@dataclass(frozen=True)
class Context:
    """A kind of job is one function ``run(spec, context) -> dict``; the dict is its result, plain JSON.

    It works in ``folder`` (``data`` in there is what was sent with the job), keeps checkpoints in ``checkpoints``, and
    looks at ``stopping`` often enough: every few seconds at least. When that is true it writes a checkpoint and raises
    Cancelled (``leave_if_stopping`` does, for a job that has nothing to keep). It may be killed at any moment, and the
    next process is given the same spec and folder.
    """

    pid: int
    home: Path
    folder: Path
    threads: int
    memory_bytes: int
    """What it may allocate: to be compared with what is needed before anything is."""
    send: Callable[[Progress], None]
    line: Callable[[str], None]
    """Writes a line into the job's log."""
    stopping: Callable[[], bool]

    @cached_property
    def store(self) -> Store:
        return Store(self.home)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def progress(self, done: int, total: int, note: str = "", **figures: float) -> None:
        """``done`` of ``total`` units of work."""
        self.send(Progress(done=done, total=total, note=note, figures=figures))

    def leave_if_stopping(self) -> None:
        """Raises Cancelled."""
        if self.stopping():
            raise Cancelled("the job was asked to stop")
