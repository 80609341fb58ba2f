"""The process table: who is in the daemon, in which state, on whose account.

queued ──► running ◄──► parked               (it holds blocks and has no row of the step)
  ▲         │    │        │
  │         │    └────────┴─► done, failed, cancelled     (from every unfinished state)
  │         ▼
  │       paused ◄─► queued, running, parked (its reader is slow; its last tokens may be on the way)
  └── running, parked, paused                (its blocks are gone: it was preempted, or the worker died)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kelm.errors import KelmError
from kelm.kernel.requests import RequestTask
from kelm.kernel.tenants import Tenant
from kelm.wire.messages import Encode, Submit

Task = RequestTask | Literal["tune", "compress", "evaluate"]
State = Literal["queued", "running", "parked", "paused", "done", "failed", "cancelled"]

_ENDS: frozenset[State] = frozenset({"done", "failed", "cancelled"})
MOVES: dict[State, frozenset[State]] = {
    "queued": _ENDS | {"running", "parked", "paused"},
    "running": _ENDS | {"queued", "parked", "paused"},
    "parked": _ENDS | {"queued", "running", "paused"},
    "paused": _ENDS | {"queued", "running", "parked"},
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
    preempted: int = 0
    """How often its blocks were taken."""
    parked: int = 0
    """How often it held blocks and had no row."""
    recomputed_tokens: int = 0
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
    priority: int = 0
    """Lower is earlier."""
    standing: Tenant = field(default_factory=Tenant)
    wants: str = ""
    """What the worker said last that it lacks: row, tokens or blocks."""

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

    def set_aside(self) -> None:
        """Its worker was told to leave it alone for a while, and not for its reader's sake."""
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
