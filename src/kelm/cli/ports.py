"""Who listens on a port, from /proc: the answer to "address already in use"."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens; ``command`` is its command line. Another user's may hide: pid None."""

    pid: int | None
    command: str

    def __str__(self) -> str:
        return "a process of another user" if self.pid is None else f"pid {self.pid} ({self.command})"


def listener(port: int) -> Listener | None:
    """The process that listens on TCP ``port``, on any address; None when nobody does."""
    inodes = _inodes(port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and _holds(folder, wanted):
            return Listener(int(folder.name), _command(folder))
    return Listener(None, "")


def _inodes(port: int) -> set[str]:
    """Sockets that listen on ``port``: fields of /proc/net/tcp are local_address (hex address:port), st, inode."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _holds(folder: Path, sockets: set[str]) -> bool:
    """Whether the process of /proc/<pid> has one of these open; what another user's has can't be seen."""
    with suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False


def _command(folder: Path) -> str:
    with suppress(OSError):
        raw = (folder / "cmdline").read_bytes()
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    return "?"
