"""A job on disk: ``KELM_HOME/jobs/<pid>/``.

    job.json    what was asked, and what has become of it; written whole at every change of state
    data        what was sent with it
    log.txt     what its process prints
    ...         the work of its kind: checkpoints, curves

A folder without job.json is of a job that was never acknowledged, and is swept.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from kelm import limits
from kelm.errors import StoreError
from kelm.kernel.processes import State
from kelm.store.atomic import disk_errors, sync_folder, write_file
from kelm.wire.jobs import Failed, Progress, Spec

log = logging.getLogger(__name__)

_FILE = "job.json"
_FULL_BYTES = 64 << 20
"""A disk with less than this left takes no new jobs: their checkpoints would fill it."""


class Saved(msgspec.Struct, kw_only=True):
    """job.json. Times are Unix seconds."""

    format: int = 1
    pid: int
    spec: Spec
    threads: int
    """Fixed when it is accepted: the sums of another number of threads are others in the last bit."""
    created: float
    state: State = "queued"
    deaths: int = 0
    """How often its process was killed."""
    started: float | None = None
    finished: float | None = None
    progress: Progress | None = None
    result: dict[str, Any] | None = None
    error: Failed | None = None


class JobFiles:
    """The jobs of one home. Every method may block."""

    def __init__(self, home: Path) -> None:
        self._root = home / "jobs"

    def folder(self, pid: int) -> Path:
        return self._root / str(pid)

    def log(self, pid: int) -> Path:
        return self.folder(pid) / "log.txt"

    def create(self, saved: Saved, data: bytes | None) -> None:
        """A new job: its folder and data first, job.json last; acknowledged when it returns. Raises StoreError."""
        folder = self.folder(saved.pid)
        with disk_errors("the job can't be written"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self._root).free
            if free < _FULL_BYTES + len(data or b""):
                raise StoreError(f"no space for a job: the disk of KELM_HOME has {free} bytes left; free some")
            try:
                folder.mkdir(mode=0o700)
                self.log(saved.pid).touch(mode=0o600)
                if data is not None:
                    write_file(folder / "data", data)
                self.save(saved)
                sync_folder(self._root)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def save(self, saved: Saved) -> None:
        """Raises OSError."""
        write_file(self.folder(saved.pid) / _FILE, msgspec.json.format(msgspec.json.encode(saved), indent=1))

    def load(self) -> list[Saved]:
        """Every job, oldest first. A damaged one is a line in the log and stays where it is."""
        if not self._root.is_dir():
            return []
        found = []
        for folder in self._root.iterdir():
            if folder.name.isdecimal() and (saved := self._load(folder)) is not None:
                found.append(saved)
        return sorted(found, key=lambda saved: saved.pid)

    def remove(self, pid: int) -> None:
        """Forget a job: job.json first, so that half a removal is no job."""
        folder = self.folder(pid)
        (folder / _FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def drop_work(self, pid: int) -> None:
        """Of a job that has ended in order: what only a resumed one would need."""
        shutil.rmtree(self.folder(pid) / "checkpoints", ignore_errors=True)
        (self.folder(pid) / "data").unlink(missing_ok=True)

    def read_log(self, pid: int, offset: int) -> tuple[str, int]:
        """At most limits.JOB_LOG_BYTES from ``offset``, whole lines where there are any, and where they end."""
        most = int(limits.JOB_LOG_BYTES.value)
        try:
            with self.log(pid).open("rb") as stream:
                stream.seek(offset)
                raw = stream.read(most)
        except OSError:
            return "", offset
        end = raw.rfind(b"\n") + 1 or (len(raw) if len(raw) == most else 0)
        return raw[:end].decode(errors="replace"), offset + end

    def open_log(self, pid: int) -> int:
        """A descriptor to append to."""
        return os.open(self.log(pid), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _load(self, folder: Path) -> Saved | None:
        try:
            saved = msgspec.json.decode((folder / _FILE).read_bytes(), type=Saved)
        except FileNotFoundError:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.error("job_unreadable folder=%s reason=%r", folder.name, str(error))
            return None
        return saved if str(saved.pid) == folder.name else None
