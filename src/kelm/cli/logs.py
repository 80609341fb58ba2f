"""The background daemon's log: where it is, and `kelm logs`."""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path

from kelm.clock import SYSTEM
from kelm.config import Settings, load_settings
from kelm.errors import StoreError

LOG_BYTES = 16 << 20
"""A longer log is put aside (the last one is kept) when a daemon starts."""
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
