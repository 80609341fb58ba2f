"""What the worker has been given, what it was told to pause, and what waits for the next worker.

The daemon never guesses a worker's state: a new worker has been given nothing, and everything unfinished is given
to it again with the tokens known so far. While somebody is suspected of the last death, only the suspects on trial
run (suspects.py); all others wait or are paused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kelm.kernel.processes import Job, ProcessTable
from kelm.kernel.suspects import Suspects
from kelm.wire.messages import Cancel, Command, Pause, Renice, Resume, StepBegin

log = logging.getLogger(__name__)


class Dispatcher:
    """``send`` hands a command to the worker that is up."""

    def __init__(self, table: ProcessTable, send: Callable[[Command], None]) -> None:
        self._table = table
        self._send = send
        self._suspects = Suspects()
        self._open = False
        self._given: set[int] = set()
        self._parked: set[int] = set()
        self._step: StepBegin | None = None
        self._stepped = False

    @property
    def busy(self) -> bool:
        """Whether the worker has something to do."""
        return len(self._given) > len(self._parked)

    @property
    def is_open(self) -> bool:
        """Whether a worker is up and has its models."""
        return self._open

    @property
    def stepped(self) -> bool:
        """Whether the worker that is up has run a step."""
        return self._stepped

    @property
    def in_step(self) -> bool:
        return self._step is not None

    def settle(self, job: Job) -> None:
        """Make the worker do with ``job`` what it should now: start it, pause it, go on with it."""
        pid = job.record.pid
        if job.held and self._suspects.gone(pid):
            self._settle_all()
        if not self._open:
            return
        run = not job.held and self._suspects.may_run(pid)
        if run and pid not in self._given:
            self._given.add(pid)
            self._send(job.command())
        elif run and pid in self._parked:
            self._parked.remove(pid)
            self._send(Resume(pid, job.record.standing.share.counter))
        elif not run and pid in self._given and pid not in self._parked:
            self._parked.add(pid)
            self._send(Pause(pid))
            if not job.held:
                job.set_aside()

    def renice(self, job: Job) -> None:
        """Its priority has changed."""
        if job.record.pid in self._given:
            self._send(Renice(job.record.pid, job.record.priority))

    def trial(self, pid: int) -> tuple[int, ...]:
        """The suspects that ``pid`` waits for; none when it may run itself."""
        return () if self._suspects.may_run(pid) else self._suspects.on_trial

    def ended(self, pid: int, *, in_worker: bool) -> None:
        """A job left the table. ``in_worker``: the worker doesn't know yet."""
        if in_worker and pid in self._given:
            self._send(Cancel(pid))
        self._given.discard(pid)
        self._parked.discard(pid)
        if self._suspects.gone(pid):
            self._settle_all()

    def returned(self, job: Job) -> None:
        """The worker answered what it was given and wants to be given the rest."""
        self._given.discard(job.record.pid)
        self._parked.discard(job.record.pid)
        self.settle(job)

    def drop_choice(self, pid: int, choice: int) -> None:
        """The daemon decided that one choice is over; the others go on."""
        if pid in self._given:
            self._send(Cancel(pid, choice))

    # what the worker reports

    def step_begins(self, step: StepBegin) -> None:
        self._step = step

    def step_ended(self) -> None:
        """Also told of reports that only bring counters up to date; those are no steps."""
        self._stepped = self._stepped or self._step is not None
        self._step = None

    def encoded(self) -> None:
        """An encoding is a step of its own."""
        self._stepped, self._step = True, None

    def progressed(self, pid: int) -> None:
        """It got something that it did not have when the worker died: it is not the culprit."""
        if self._suspects.active and self._suspects.cleared(pid):
            log.info("suspects_cleared last=%d next=%s", pid, self._suspects.on_trial)
            self._settle_all()

    # the worker's life

    def worker_down(self, *, loading: bool) -> Job | None:
        """Returns the job to fail, if one has killed its worker alone too often.

        ``loading``: a model was being loaded. A death outside a step is then the model's fault, not the jobs'.
        """
        self._open = False
        convict = self._suspects.died(self._members(loading))
        self._given.clear()
        self._parked.clear()
        self._step, self._stepped = None, False
        for job in self._table:
            job.lost()
        if self._suspects.active:
            log.warning("suspects on_trial=%s", self._suspects.on_trial)
        return None if convict is None else self._table.get(convict)

    def worker_ready(self) -> None:
        """Its models are loaded: give it what is unfinished."""
        self._open = True
        self._settle_all()

    def _members(self, loading: bool) -> list[int]:
        """Whom to suspect. An encoding runs between steps; and a worker that dies before its first step may have
        died of being given its jobs."""
        if self._step is not None:
            members = set(self._step.pids)
        elif loading:
            members = set()
        else:
            members = {pid for pid in self._given if not self._stepped or self._is_encoding(pid)}
        return [pid for pid in sorted(members) if self._table.get(pid) is not None]

    def _is_encoding(self, pid: int) -> bool:
        job = self._table.get(pid)
        return job is not None and job.record.kind != "generate"

    def _settle_all(self) -> None:
        for job in self._table:
            self.settle(job)
