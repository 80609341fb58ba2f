"""The worker's core: commands change who is here, ``step`` lets them run. No thread, no socket, no torch of its own.

1 submit      roster.py    a process and its sequences, waiting
2 place       placing.py   sched/ plans, memory/ gives blocks (others may lose theirs)
3 forward     forward.py   one batch through the executor, a fault charged to one member
4 advance     advance.py   sample, fork, finish
5 report                   one Step for all of it
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from kelm.clock import SYSTEM, Clock
from kelm.errors import KelmError, UnsupportedModel, WorkerFailed
from kelm.sched.turns import rotation
from kelm.wire.messages import (
    Cancel,
    Counters,
    Encode,
    Encoded,
    Failed,
    Load,
    Loaded,
    LoadProgress,
    Report,
    Started,
    Step,
    StepBegin,
    Submit,
)
from kelm.worker.account import Account
from kelm.worker.advance import Advance, Harvest
from kelm.worker.bill import Bill
from kelm.worker.forward import forward
from kelm.worker.moves import moves
from kelm.worker.opened import Opener
from kelm.worker.placing import Member, Placement, Placer
from kelm.worker.residency import Residency, Resident
from kelm.worker.roster import Roster
from kelm.worker.settings import EngineSettings

log = logging.getLogger(__name__)


class Engine:
    """Runs generations and encodings on the models loaded into it. One thread at a time.

    ``report`` is called with LoadProgress, StepBegin (before a step runs) and Failed; the rest is returned.
    """

    def __init__(
        self,
        settings: EngineSettings,
        opener: Opener,
        report: Callable[[Report], None] = lambda report: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._report = report
        self._clock = clock
        self._account = Account()
        self._residency = Residency(settings, opener)
        self._roster = Roster(self._residency, self._account)
        self._placer = Placer(self._residency, settings, self._roster.bill.shares, self._roster.preempt)
        self._advance = Advance(self._roster, self._account)
        self._number = 0
        self._last: str | None = None
        self._stale = False
        """Whether counters changed without a step."""

    def load(self, command: Load) -> Loaded:
        """Raises OutOfMemory, ModelFormatError, UnsupportedModel."""
        began_s = self._clock.monotonic_s()

        def progress(done: int, total: int) -> None:
            self._report(LoadProgress(command.model, done, total))

        loaded = self._residency.load(command, progress).loaded
        self._stale = True
        return msgspec.structs.replace(loaded, seconds=self._clock.monotonic_s() - began_s)

    def unload(self, model: str) -> None:
        """Its processes end with reason ``abort``, its variants go with it. ModelNotFound when it isn't resident."""
        for variant in self._residency.variants_of(model):
            self.unload(variant)
        for sequence in list(self._residency.get(model).sequences.values()):
            self.cancel(Cancel(sequence.generation.pid))
        self._residency.unload(model)
        self._stale = True

    def submit(self, submit: Submit) -> None:
        """Raises ModelNotFound, InvalidRequest, ContextTooLong."""
        self._roster.submit(submit)

    def cancel(self, cancel: Cancel) -> None:
        self._roster.cancel(cancel.pid, cancel.choice)
        self._stale = True

    def pause(self, pid: int) -> None:
        """Park a process; nothing happens when it is over already."""
        if pid in self._roster.generations:
            self._roster.generations[pid].paused = True

    def resume(self, pid: int, counter: float = 0.0) -> None:
        """``counter``: where its tenant's stands by now."""
        if pid in self._roster.generations:
            generation = self._roster.generations[pid]
            generation.paused, generation.told = False, None
            self._roster.bill.lift(generation.share, counter)

    def renice(self, pid: int, priority: int) -> None:
        """From the next step on; nothing happens when it is over already."""
        if pid in self._roster.generations:
            self._roster.generations[pid].priority = priority

    @property
    def bill(self) -> Bill:
        """How tenants stand."""
        return self._roster.bill

    def encode(self, request: Encode) -> Encoded:
        """Raises ModelNotFound, UnsupportedModel."""
        resident = self._residency.get(request.model)
        if resident.opened.encoder is None:
            raise UnsupportedModel(f"this model ({resident.loaded.architecture}) has no task {request.task}")
        results = resident.opened.encoder.run(request)
        name = resident.opened.loaded.executor
        self._account.steps[name] = self._account.steps.get(name, 0) + 1
        self.bill.charge(request.share, sum(map(len, request.inputs)))
        shapes = [list(result.shape) for result in results]
        data = [result.astype("<f4").tobytes() for result in results]
        return Encoded(pid=request.pid, shapes=shapes, data=data, charges=self.bill.charges())

    def has_work(self) -> bool:
        """Whether ``step`` would report anything."""
        if self._stale or self._roster.notices:
            return True
        return any(not generation.paused for generation in self._roster.generations.values())

    def step(self) -> Step | None:
        """Run one step, of one model; None when there is nothing to run or to report."""
        began_s = self._clock.monotonic_s()
        looked: dict[str, Placement] = {}
        resident = self._turn(looked)
        if resident is None:
            return self._report_step(began_s, [], Harvest()) if self._stale or self._roster.notices else None
        self._number += 1
        members = list(looked[resident.key].members.values())
        served = {member.sequence.generation.share for member in members}
        pids = list(dict.fromkeys(member.sequence.generation.pid for member in members))
        self._report(StepBegin(self._number, pids))
        started = self._start(members)
        assert resident.opened.decoder is not None
        outcome = forward(resident.opened.decoder, members)
        harvest = self._advance.step(resident, members, outcome)
        for pid, error in harvest.errors.items():
            self._fail(pid, error)
        self.bill.close(served, looked[resident.key].waiting)
        harvest.moves = list(moves(self._roster.generations.values(), pids, looked))
        harvest.rows = len(members)
        name = resident.loaded.executor
        self._account.steps[name] = self._account.steps.get(name, 0) + 1
        return self._report_step(began_s, started, harvest)

    def check(self) -> None:
        """Conservation of blocks; AssertionError when broken. For tests and idle moments."""
        self._residency.pool.check()

    def _turn(self, looked: dict[str, Placement]) -> Resident | None:
        """The next model with somebody to run. ``looked``: gets what became of each model's candidates."""
        for key in rotation(list(self._residency.models), self._last):
            resident = self._residency.models[key]
            looked[key] = self._placer.place(resident)
            if looked[key].members:
                self._last = key
                return resident
        return None

    def _start(self, members: list[Member]) -> list[Started]:
        started = []
        for member in members:
            generation = member.sequence.generation
            if not generation.started:
                generation.started = True
                self._account.prompt_tokens += len(generation.prompt)
                self._account.cached_tokens += member.sequence.computed
                started.append(Started(generation.pid, member.sequence.computed))
        return started

    def _fail(self, pid: int, error: Exception) -> None:
        """The process is over; what it did wrong is told to its owner, and no more than that."""
        generation = self._roster.generations.get(pid)
        if generation is not None:
            self._roster.drop(generation)
        if not isinstance(error, KelmError):
            log.error("step_failed pid=%d", pid, exc_info=error)
            error = WorkerFailed(f"computing this request failed ({type(error).__name__}); the others go on")
        self._report(Failed(pid, error.code, error.message))

    def _report_step(self, began_s: float, started: list[Started], harvest: Harvest) -> Step:
        notices, self._roster.notices = self._roster.notices, []
        self._stale = False
        return Step(
            number=self._number,
            seconds=self._clock.monotonic_s() - began_s,
            counters=self._counters(harvest.rows),
            started=started,
            tokens=notices + harvest.tokens,
            prompts=harvest.prompts,
            moves=harvest.moves,
            charges=self.bill.charges(),
            recomputed=self.bill.recomputed(),
        )

    def _counters(self, rows: int) -> Counters:
        free, total = self._residency.pool.counts()
        running = sum(
            sequence.tables is not None
            for resident in self._residency.models.values()
            for sequence in resident.sequences.values()
        )
        waiting = sum(not generation.started for generation in self._roster.generations.values())
        account = self._account
        return Counters(
            blocks_free=free,
            blocks_total=total,
            running=running,
            waiting=waiting,
            preemptions=account.preemptions,
            prompt_tokens=account.prompt_tokens,
            generated_tokens=account.generated_tokens,
            recomputed_tokens=account.recomputed_tokens,
            cached_tokens=account.cached_tokens,
            steps=dict(account.steps),
            rows=rows,
        )
