"""Blobs: immutable files named by their SHA-256.

A file is staged first (copied, cloned or linked into a folder of its own, hashed, synced), which may take minutes and
holds no lock; publishing is a rename under the store's lock. A crash leaves a staging folder that nobody holds, or
blobs that no manifest names; the next writer sweeps both.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from kelm.store.atomic import locked, sync_folder
from kelm.store.home import Home
from kelm.store.manifest import BlobRef

CHUNK_BYTES = 1 << 20
FICLONE = 0x40049409  # linux/fs.h: share the extents of another file, copy on write (btrfs, xfs, bcachefs)

Count = Callable[[int], None]
"""Called with the number of bytes that have just been read."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A hashed file in a staging folder."""

    path: Path
    blob: BlobRef


def blob_path(home: Home, digest: str) -> Path:
    return home.blobs / digest.replace(":", "-")


class Staging:
    """A staging folder, held by a lock on the folder itself; leaving the context removes what was not published.
    Other work files may lie in ``folder`` too."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.folder = home.staging / secrets.token_hex(8)

    def __enter__(self) -> Staging:
        with locked(self._home.lock):  # against sweep(), between mkdir and flock
            self.folder.mkdir(parents=True)
            self._fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._fd)

    def copy(self, source: BinaryIO, count: Count) -> Staged:
        """Clone the file where the file system can, else copy it. A later change of the source changes nothing here."""
        path = self.folder / secrets.token_hex(8)
        with path.open("x+b") as target:
            try:
                fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
            except OSError:
                blob = _hash_while(source, count, target.write)
            else:
                blob = _hash_while(target, count)
            target.flush()
            os.fsync(target.fileno())
        return Staged(path, blob)

    def link(self, source: Path, count: Count) -> Staged:
        """Hard-link a file that its owner never changes in place; a symbolic link where the disk differs or the file
        is somebody else's. ``source`` is not a link itself."""
        path = self.folder / secrets.token_hex(8)
        try:
            os.link(source, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK):
                raise
            path.symlink_to(source)
        with path.open("rb") as stream:
            blob = _hash_while(stream, count)
            os.fsync(stream.fileno())
        return Staged(path, blob)


def publish(home: Home, staged: Iterable[Staged]) -> None:
    """Give staged files their names. The caller holds the store's lock and writes the manifest next."""
    for file in staged:
        target = blob_path(home, file.blob.digest)
        if not _whole(target, file.blob.size):
            os.replace(file.path, target)  # noqa: PTH105
    sync_folder(home.blobs)


def sweep(home: Home, named: Iterable[str]) -> None:
    """Remove every blob whose digest is not in ``named`` and every staging folder whose process has died. The caller
    holds the store's lock."""
    keep = {blob_path(home, digest).name for digest in named}
    for path in home.blobs.iterdir():
        if path.name.startswith("sha256-") and path.name not in keep:
            path.unlink()
    for folder in home.staging.iterdir():
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(fd)


def _whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _hash_while(source: BinaryIO, count: Count, also: Callable[[bytes], object] = lambda chunk: None) -> BlobRef:
    digest, size = hashlib.sha256(), 0
    source.seek(0)
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        also(chunk)
        size += len(chunk)
        count(len(chunk))
    return BlobRef("sha256:" + digest.hexdigest(), size)
