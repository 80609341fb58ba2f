"""What the worker is told, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from kelm.errors import KelmError
from kelm.kernel.dispatch import Dispatcher
from kelm.kernel.processes import ProcessTable, Record
from kelm.wire.messages import Cancel, Command, Pause, Resume, Sampling, StepBegin, Submit


@dataclass
class FakeJob:
    record: Record
    held: bool = False
    buffered_bytes: int = 0
    losses: int = 0
    asides: int = 0

    def command(self) -> Submit:
        return Submit(pid=self.record.pid, model="m", prompt=[1], sampling=Sampling(seed=0, max_tokens=1))

    def lost(self) -> None:
        self.losses += 1

    def set_aside(self) -> None:
        self.asides += 1

    def fail(self, error: KelmError, *, in_worker: bool = True) -> None:
        raise AssertionError(error)


@dataclass
class Desk:
    table: ProcessTable = field(default_factory=ProcessTable)
    sent: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.table, self.send)

    def send(self, command: Command) -> None:
        assert isinstance(command, Submit | Pause | Resume | Cancel)
        self.sent.append((type(command).__name__, command.pid))

    def told(self) -> list[tuple[str, int]]:
        told, self.sent = self.sent, []
        return told

    def arrive(self, kind: str = "generate") -> FakeJob:
        record = Record(self.table.new_pid(), "r", "t", "m", "m", kind, 1, 0.0)  # type: ignore[arg-type]
        job = FakeJob(record)
        self.table.add(job)
        self.dispatcher.settle(job)
        return job

    def leave(self, pid: int) -> None:
        self.table.remove(pid)
        self.dispatcher.ended(pid, in_worker=False)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_jobs_wait_for_a_worker_and_are_given_once(desk: Desk) -> None:
    first = desk.arrive()
    assert desk.told() == [] and not desk.dispatcher.busy
    desk.dispatcher.worker_ready()
    desk.arrive()
    desk.dispatcher.settle(first)
    assert desk.told() == [("Submit", 1), ("Submit", 2)]
    assert desk.dispatcher.busy


def test_a_held_job_is_paused_once_and_given_back_or_given_anew(desk: Desk) -> None:
    desk.dispatcher.worker_ready()
    job = desk.arrive()
    for held in (True, True, False, False):
        job.held = held
        desk.dispatcher.settle(job)
    assert desk.told() == [("Submit", 1), ("Pause", 1), ("Resume", 1)]
    job.held = True
    desk.dispatcher.worker_down(loading=False)
    desk.dispatcher.worker_ready()
    assert desk.told() == []  # a new worker isn't given what nobody reads
    job.held = False
    desk.dispatcher.settle(job)
    assert desk.told() == [("Submit", 1)]


def test_a_cancelled_job_is_taken_back_only_from_a_worker_that_has_it(desk: Desk) -> None:
    job = desk.arrive()
    desk.table.remove(1)
    desk.dispatcher.ended(1, in_worker=True)
    desk.dispatcher.worker_ready()
    assert desk.told() == []
    job = desk.arrive()
    desk.table.remove(job.record.pid)
    desk.dispatcher.ended(job.record.pid, in_worker=True)
    assert desk.told() == [("Submit", 2), ("Cancel", 2)]


def test_the_members_of_the_step_are_replayed_in_halves_and_all_others_wait(desk: Desk) -> None:
    desk.dispatcher.worker_ready()
    jobs = [desk.arrive() for _ in range(5)]
    desk.dispatcher.step_begins(StepBegin(1, [1, 2, 3, 4]))
    desk.told()
    assert desk.dispatcher.worker_down(loading=False) is None
    assert all(job.losses == 1 for job in jobs)
    desk.dispatcher.worker_ready()
    assert desk.told() == [("Submit", 1), ("Submit", 2)]
    newcomer = desk.arrive()
    assert desk.told() == []
    desk.dispatcher.progressed(1)
    assert desk.told() == []
    desk.dispatcher.progressed(2)  # the first half is innocent: it is parked, the second is tried
    assert desk.told() == [("Pause", 1), ("Pause", 2), ("Submit", 3), ("Submit", 4)]
    desk.leave(3)
    assert desk.told() == []
    desk.dispatcher.progressed(4)
    assert desk.told() == [("Resume", 1), ("Resume", 2), ("Submit", 5), ("Submit", newcomer.record.pid)]


def test_a_suspect_whose_reader_is_slow_does_not_hold_up_the_others(desk: Desk) -> None:
    desk.dispatcher.worker_ready()
    jobs = [desk.arrive() for _ in range(2)]
    desk.dispatcher.step_begins(StepBegin(1, [1, 2]))
    jobs[0].held = True
    desk.told()
    desk.dispatcher.worker_down(loading=False)
    desk.dispatcher.worker_ready()
    assert desk.told() == [("Submit", 2)]


def test_alone_twice_is_a_conviction(desk: Desk) -> None:
    desk.dispatcher.worker_ready()
    job = desk.arrive()
    for verdict in (None, job):
        desk.dispatcher.step_begins(StepBegin(1, [1]))
        assert desk.dispatcher.worker_down(loading=False) is verdict
        desk.dispatcher.worker_ready()


def test_before_the_first_step_everything_given_is_suspected_unless_a_model_was_loading(desk: Desk) -> None:
    desk.dispatcher.worker_ready()
    desk.arrive()
    assert desk.dispatcher.worker_down(loading=True) is None
    desk.dispatcher.worker_ready()
    assert desk.dispatcher.worker_down(loading=False) is None
    desk.dispatcher.worker_ready()
    assert desk.dispatcher.worker_down(loading=False) is not None


def test_between_steps_only_encodings_are_suspected(desk: Desk) -> None:
    desk.dispatcher.worker_ready()
    desk.arrive()
    encoding = desk.arrive("embed")
    for verdict in (None, encoding):
        desk.dispatcher.step_begins(StepBegin(1, [1]))
        desk.dispatcher.step_ended()
        assert desk.dispatcher.worker_down(loading=False) is verdict
        desk.dispatcher.worker_ready()


def test_a_report_without_a_step_is_not_a_step(desk: Desk) -> None:
    desk.dispatcher.step_ended()
    assert not desk.dispatcher.stepped
    desk.dispatcher.step_begins(StepBegin(1, []))
    assert desk.dispatcher.in_step
    desk.dispatcher.step_ended()
    assert desk.dispatcher.stepped and not desk.dispatcher.in_step
