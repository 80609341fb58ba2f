"""One daemon for each KELM_HOME: a locked file that says who it is.

``KELM_HOME/run/daemon.json``:
``{"pid": 1234, "address": "http://127.0.0.1:8420", "started": 1760000000.0, "token": "..."}``, mode 0600

The lock (flock, held by a descriptor of the daemon) is the truth: it goes with the process, however that ends. A file
that nobody has locked is stale, whatever pid it names.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from kelm.clock import Clock
from kelm.errors import ConfigError, StoreError

_TRIES = 20
"""``owner`` takes the lock for a moment to see whether it is free; a daemon that starts then must not give up."""


class Owner(msgspec.Struct, frozen=True):
    """The daemon of a home. ``started`` is Unix time, ``token`` the operator's key at its doors."""

    pid: int
    address: str
    started: float
    token: str = ""


class DaemonFile:
    """Held from ``acquire`` to ``release``."""

    def __init__(self, path: Path, descriptor: int, started_s: float, token: str) -> None:
        self._token = token
        self._path = path
        self._descriptor = descriptor
        self._started_s = started_s

    @classmethod
    def acquire(cls, home: Path, address: str, clock: Clock, token: str = "") -> DaemonFile:
        """Raises ConfigError naming the daemon that has this home, StoreError when the file can't be made."""
        path = _path(home)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = _open_locked(path)
        except OSError as error:
            raise StoreError(f"{path} can't be made: {error.strerror}") from None
        if descriptor is None:
            raise ConfigError(_in_use(home))
        held = cls(path, descriptor, clock.wall_s(), token)
        held.announce(address)
        return held

    def announce(self, address: str) -> None:
        """Write where the doors are; again once a free port was taken."""
        body = msgspec.json.encode(Owner(os.getpid(), address, self._started_s, self._token)) + b"\n"
        os.pwrite(self._descriptor, body, 0)
        os.ftruncate(self._descriptor, len(body))

    def release(self) -> None:
        """Remove the file and let the next daemon in."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)


def owner(home: Path) -> Owner | None:
    """The running daemon of a home; None when there is none, or only a stale file of one."""
    try:
        descriptor = os.open(_path(home), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _path(home: Path) -> Path:
    return home / "run" / "daemon.json"


def _open_locked(path: Path) -> int | None:
    """None when somebody else has it. A file that was unlinked while we waited for its lock is not the file."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
    return None


def _read(descriptor: int) -> Owner | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Owner)
    except msgspec.DecodeError:
        return None


def _in_use(home: Path) -> str:
    found = owner(home)
    who = "another daemon" if found is None else f"the daemon with pid {found.pid} at {found.address}"
    return f"{home} is in use by {who}; stop it with `kelm shutdown`, or set KELM_HOME to another folder"
