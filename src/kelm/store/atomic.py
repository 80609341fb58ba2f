"""Writes that are whole or absent, whatever kills the process: temp file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kelm.errors import StoreError

TEMP_PREFIX = ".tmp-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, data: bytes) -> None:
    """Make ``path`` hold exactly ``data``; on any failure the old content stays, and no temp file."""
    with replacing(path) as stream:
        stream.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, which takes the place of ``path`` when the block ends; if it fails, the old content stays, and no
    temp file."""
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        with temp.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temp, path)  # noqa: PTH105  (named as the system call it is)
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's renames and removals durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` against every other process and thread. The lock goes with a process that dies, and
    the file stays."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that says what failed and what to do."""
    try:
        yield
    except OSError as error:
        advice = "free space, or set KELM_HOME to a larger disk" if error.errno in _FULL else "check the folder"
        raise StoreError(f"{what}: {error.strerror or error}; {advice}") from error


def check_space(folder: Path, wanted_bytes: int) -> None:
    """Raises StoreError when the disk of ``folder`` has less left."""
    free = shutil.disk_usage(folder).free
    if wanted_bytes > free:
        raise StoreError(f"no space: {wanted_bytes} bytes are needed, the disk of {folder} has {free} left")
