"""The background daemon's log: where it is, and `kelm logs`, which shows a job's too."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from kelm.cli.client import Client, find
from kelm.clock import SYSTEM
from kelm.config import Settings, load_settings
from kelm.errors import StoreError

LOG_BYTES = 16 << 20
"""A longer log is put aside (the last one is kept) when a daemon starts."""
ENDS = ("done", "failed", "cancelled")
_LOOK_S = 0.2


def log_path(settings: Settings) -> Path:
    return settings.home / "logs" / "kelmd.log"


def make_room(path: Path) -> None:
    """Before a daemon writes: the folder, and a log that has not grown too long."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))


def show(follow: bool, lines: int) -> None:
    """Print the last ``lines`` lines; with ``follow``, go on until interrupted."""
    path = log_path(load_settings())
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise StoreError("there is no log yet: only a background daemon (`kelm serve -d`) writes one") from None
    with stream:
        sys.stdout.buffer.writelines(deque(stream, maxlen=lines))
        sys.stdout.buffer.flush()
        while follow:
            chunk = stream.read()
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            if not chunk:
                if _put_aside(path, stream.fileno()):
                    return show(follow, lines)
                SYSTEM.sleep_s(_LOOK_S)
    return None


def _put_aside(path: Path, fd: int) -> bool:
    """Whether a new daemon has begun a new file."""
    return path.exists() and path.stat().st_ino != os.fstat(fd).st_ino


def show_job(pid: int, follow: bool, lines: int) -> None:
    """Print the last ``lines`` lines of a job's log; with ``follow``, go on until it has ended."""
    client = find(load_settings())
    texts = job_texts(client, pid)
    past = next(texts).splitlines(keepends=True)
    sys.stdout.write("".join(past[-lines:] if lines else []))
    sys.stdout.flush()
    while follow and (more := next(texts, None)) is not None:
        sys.stdout.write(more)
        sys.stdout.flush()
        if not more:
            SYSTEM.sleep_s(_LOOK_S)


def job_texts(client: Client, pid: int, start: int = 0) -> Iterator[str]:
    """What is in the log of a job from byte ``start`` on, then what has come since the last piece (it may be empty),
    until the job has ended."""
    while True:
        pieces: list[str] = []
        while True:
            answer = client.call("GET", f"/admin/jobs/{pid}/log?start={start}")
            if not answer["text"]:
                break
            pieces.append(answer["text"])
            start = answer["next"]
        yield "".join(pieces)
        if answer["state"] in ENDS:
            return
