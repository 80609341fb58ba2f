"""Pids that no later daemon of this home gives again: ``KELM_HOME/run/pids`` holds a number that none has reached.

Pids are reserved on disk in batches, so that a crash skips some and a request waits for the disk once in
limits.PIDS_AT_ONCE; a daemon that ends in order gives back what it has left.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from kelm import limits
from kelm.store.atomic import write_file

log = logging.getLogger(__name__)


class Pids:
    """One for each daemon, which must hold the home's lock when the first pid is drawn."""

    def __init__(self, home: Path) -> None:
        self._path = home / "run" / "pids"
        self._next: int | None = None
        self._reserved = 0

    def draw(self) -> int:
        """The next pid. A disk that can't be written costs the promise for later daemons, not the request."""
        if self._next is None:
            self._next = self._reserved = self._read()
        if self._next >= self._reserved:
            self._reserved = self._next + int(limits.PIDS_AT_ONCE.value)
            self._write(self._reserved)
        pid, self._next = self._next, self._next + 1
        return pid

    def give_back(self) -> None:
        """The daemon ends: the next one goes on without a gap."""
        if self._next is not None:
            self._write(self._next)

    def at_least(self, pid: int) -> None:
        """Draw none up to ``pid``: a job that is on disk has it, whatever became of our own file."""
        if self._next is None:
            self._next = self._reserved = self._read()
        self._next = max(self._next, pid + 1)

    def _read(self) -> int:
        with suppress(OSError, ValueError):
            return max(1, int(self._path.read_bytes()))
        return 1

    def _write(self, number: int) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self._path, f"{number}\n".encode())
        except OSError as error:
            log.warning("pids_not_reserved reason=%r", error.strerror)
