"""The process table: who is in the daemon, in which state, on whose account.

queued ──► running ──► done
  ▲  │      │ ▲  │
  │  │      ▼ │  └───► failed, cancelled     (from every unfinished state)
  │  └──► paused ─────► done                 (its last tokens were on the way)
  └── running, paused                        (the worker died: its blocks are gone)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kelm.errors import KelmError
from kelm.kernel.requests import EncodingTask
from kelm.wire.messages import Encode, Submit

Task = Literal["generate"] | EncodingTask | Literal["tune", "compress", "evaluate"]
State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]

_ENDS: frozenset[State] = frozenset({"done", "failed", "cancelled"})
MOVES: dict[State, frozenset[State]] = {
    "queued": _ENDS | {"running", "paused"},
    "running": _ENDS | {"queued", "paused"},
    "paused": _ENDS | {"queued", "running"},
    "done": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


@dataclass(slots=True)
class Account:
    """What a process has used. Tokens that ran past a stop string are not in it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    arrived_s: float = 0.0
    """Monotonic, as the next three."""
    started_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None


@dataclass(slots=True)
class Record:
    """One row of the table."""

    pid: int
    request_id: str
    tenant: str
    model: str
    """The model's full name, ``name:tag`` or ``name:tag@variant:version``."""
    key: str
    """The loaded model, as the worker knows it."""
    kind: Task
    rows: int
    """Sequences it may occupy at once: n of a generation, 1 of an encoding."""
    arrived_wall_s: float
    """Unix time, for display."""
    salt: bytes = b""
    """What the worker knows of the tenant: prefixes are shared under the same salt only."""
    account: Account = field(default_factory=Account)
    state: State = "queued"

    @property
    def series(self) -> str:
        """The model for metrics: all versions of a variant are one."""
        base, at, variant = self.model.partition("@")
        return base + at + variant.partition(":")[0]

    @property
    def finished(self) -> bool:
        return self.state in _ENDS

    def transition(self, to: State) -> None:
        """Move to another state. A move that the table lacks is our own bug."""
        assert to in MOVES[self.state], f"pid {self.pid}: {self.state} -> {to}"
        self.state = to


class Job(Protocol):
    """What the table and the dispatcher need of a generation or an encoding."""

    record: Record

    @property
    def held(self) -> bool:
        """Its reader is slow: it must not run now."""
        ...

    @property
    def buffered_bytes(self) -> int: ...

    def command(self) -> Submit | Encode:
        """What starts it in a worker, or goes on with it in the next one."""
        ...

    def lost(self) -> None:
        """Its worker died; it waits for the next one."""
        ...

    def fail(self, error: KelmError, *, in_worker: bool = True) -> None:
        """End it with an error; does nothing when it has ended already. ``in_worker``: the worker still has it."""
        ...


class ProcessTable:
    """Unfinished jobs by pid, in order of arrival. Pids are never used again; ``new_pid`` gives the next one
    (pids.py; default: counted from 1)."""

    def __init__(self, new_pid: Callable[[], int] | None = None) -> None:
        self._jobs: dict[int, Job] = {}
        self.new_pid: Callable[[], int] = new_pid or itertools.count(1).__next__

    def add(self, job: Job) -> None:
        self._jobs[job.record.pid] = job

    def remove(self, pid: int) -> None:
        del self._jobs[pid]

    def get(self, pid: int) -> Job | None:
        return self._jobs.get(pid)

    def of_model(self, key: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.record.key == key]

    def count(self, *states: State) -> int:
        return sum(job.record.state in states for job in self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """A snapshot: jobs may end while it is walked."""
        return iter(list(self._jobs.values()))
