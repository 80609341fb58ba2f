"""`kelm why`: one sentence for each thing that a process can wait for, and none that it can't."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import Any

import pytest

from kelm.clock import ManualClock
from kelm.kernel.arrival import Arrival
from kelm.kernel.encodings import EncodeJob
from kelm.kernel.models import Entry
from kelm.kernel.process import Process
from kelm.kernel.processes import Job, ProcessTable, Record
from kelm.kernel.requests import Encoding, Generation
from kelm.kernel.tenants import Tenants
from kelm.kernel.why import Sight, explain
from kelm.wire.messages import Counters, Move, Sampling, Started

WEIGHTS = {"alice": 2, "bob": 1}


class Host:
    clock = ManualClock()

    def settle(self, job: Job) -> None: ...

    def ended(self, job: Job, *, in_worker: bool) -> None: ...


class House:
    """A table with jobs of two tenants on one model, and what is known around them."""

    def __init__(self) -> None:
        self.tenants = Tenants(lambda: WEIGHTS, ManualClock(5.0))
        self.table = ProcessTable()
        self.entry = Entry("toy:latest", "toy", 0.0)
        self.entry.model = object()  # type: ignore[assignment]
        self.counters: Counters | None = Counters(3, 40, 2, 0, 0, 0, 0, 0, 0, {}, rows=2)
        self.open = True
        self.trial: tuple[int, ...] = ()

    def record(self, tenant: str, kind: Any, priority: int) -> Record:
        return Record(
            self.table.new_pid(), "r", tenant, "toy:latest", "toy", kind, 1, 0.0, priority=priority,
            standing=self.tenants.of(tenant),
        )  # fmt: skip

    def generation(self, tenant: str = "alice", priority: int = 0) -> Process:
        request = Generation(request_id="r", model="toy", prompt=[1], sampling=Sampling(seed=0, max_tokens=9))
        process = Process(self.record(tenant, "generate", priority), request, [], Host())  # type: ignore[arg-type]
        return self.enter(process)

    def encoding(self, tenant: str = "alice", priority: int = 0) -> EncodeJob:
        request = Encoding(request_id="r", model="toy", task="embed", inputs=[[1], [2]])
        return self.enter(EncodeJob(self.record(tenant, "embed", priority), request, 10, Host()))  # type: ignore[arg-type]

    def arrival(self) -> Arrival:
        return self.enter(Arrival(self.record("alice", "generate", 0), lambda arrival: None))

    def enter(self, job: Any) -> Any:
        self.table.add(job)
        self.tenants.wants(job.record.standing, job.record.pid, not job.held)
        return job

    def why(self, job: Job, entry: Entry | bool | None = True) -> dict[str, Any]:
        sight = Sight(
            entry=self.entry if entry is True else entry or None,
            worker_open=self.open,
            trial=self.trial,
            counters=self.counters,
            rows_max=2,
            others=self.table.of_model("toy"),
            tenants=self.tenants,
        )
        row = explain(job, sight)
        assert all(key in (inspect.getdoc(explain) or "") for key in row), "a key without a line in the docstring"
        json.dumps(row)
        assert row["text"].startswith(f"Process {job.record.pid} (") and row["state"] in row["text"]
        return row


@pytest.fixture
async def house() -> House:
    return House()


async def test_a_model_on_its_way(house: House) -> None:
    job = house.arrival()
    assert house.why(job, None)["waits_for"] == "model"
    entry = Entry("toy:latest", "toy", 0.0)
    entry.say("evicting other:latest")
    row = house.why(job, entry)
    assert "waits for model toy:latest: evicting other:latest" in row["text"] and row["waits_for"] == "model"
    entry.say("loading")
    entry.progress(37, 100)
    row = house.why(job, entry)
    assert "waits for model toy:latest: loading 37%" in row["text"]
    assert (row["model_phase"], row["model_done_bytes"], row["model_total_bytes"]) == ("loading", 37, 100)
    row = house.why(job)
    assert row["waits_for"] == "tokenizer" and row["model_phase"] is None


async def test_a_slow_reader_comes_before_everything_that_the_worker_says(house: House) -> None:
    job = house.generation()
    job.started(Started(1, 0))
    job._hold(True)
    row = house.why(job)
    assert (row["state"], row["waits_for"]) == ("paused", "reader")


async def test_a_worker_that_is_away(house: House) -> None:
    house.open, house.counters = False, None
    row = house.why(house.generation())
    assert row["waits_for"] == "worker" and row["rows_used"] is None


async def test_suspects_on_trial(house: House) -> None:
    house.trial = (4, 7)
    row = house.why(house.generation())
    assert row["waits_for"] == "suspects" and row["suspects"] == [4, 7] and "4, 7" in row["text"]


async def test_running_waits_for_nothing(house: House) -> None:
    job = house.generation()
    job.started(Started(1, 0))
    row = house.why(job)
    assert (row["state"], row["waits_for"]) == ("running", None) and "last step" in row["text"]


async def test_a_row_and_who_is_ahead(house: House) -> None:
    """alice has had more for its weight than bob."""
    first, urgent = house.generation("alice"), house.generation("bob", priority=-3)
    other, mine = house.generation("bob"), house.generation("alice")
    later = house.generation("alice", priority=2)
    slow = house.generation("bob", priority=-9)
    slow._hold(True)  # can't run now, whatever its priority
    house.encoding("bob", priority=-9)  # not in this line
    alice = first.record.standing
    alice.share = replace(alice.share, counter=10.0)
    mine.moved(Move(mine.pid, "parked", "row"))
    row = house.why(mine)
    assert (row["state"], row["waits_for"], row["parked"]) == ("parked", "row", 1)
    assert (row["ahead_by_priority"], row["ahead_by_tenant"], row["ahead_by_arrival"]) == (1, 1, 1)
    assert "2 of 2 were used in the last step, and 3 processes are ahead of it" in row["text"]
    assert house.why(other)["ahead_by_tenant"] == 0
    assert house.why(urgent)["text"].count("ahead") == 0 or "nobody is ahead" in house.why(urgent)["text"]
    later.moved(Move(later.pid, "queued", "row"))
    assert house.why(later)["ahead_by_priority"] == 4


async def test_blocks_tokens_and_a_first_step(house: House) -> None:
    job = house.generation()
    assert house.why(job)["waits_for"] == "turn"
    job.moved(Move(job.pid, "queued", "blocks"))
    row = house.why(job)
    assert row["waits_for"] == "blocks" and "3 of 40 are free" in row["text"] and row["preempted"] == 0
    job.moved(Move(job.pid, "running"))
    job.moved(Move(job.pid, "parked", "tokens"))
    assert house.why(job)["waits_for"] == "tokens"
    job.moved(Move(job.pid, "queued", "blocks"))
    assert house.why(job)["preempted"] == 1
    job.lost()
    assert house.why(job)["waits_for"] == "turn", "what the dead worker said is not true of the next one"


async def test_an_encoding(house: House) -> None:
    house.encoding(priority=-1)
    row = house.why(house.encoding())
    assert row["waits_for"] == "turn" and "0 of its 2 inputs" in row["text"] and row["ahead_by_priority"] == 1


async def test_its_tenants_standing(house: House) -> None:
    job = house.generation("alice")
    assert house.why(job)["share_wanted"] == 1.0
    house.generation("bob")
    row = house.why(job)
    assert (row["weight"], row["share_wanted"], row["share_served"]) == (2, 0.6667, None)
    assert "Tenant alice has weight 2, is due 67% of what is served." in row["text"]


async def test_every_state_and_lack_has_its_own_words(house: House) -> None:
    """What the mechanism can't be in is never said: who runs waits for nothing, who waits waits for something."""
    for state in ("running", "parked", "queued"):
        for wants in ("", "row", "tokens", "blocks"):
            if (state == "running") != (wants == ""):
                continue  # a worker says no such thing (tests/property/test_engine_turns.py)
            job = house.generation()
            job.moved(Move(job.pid, state, wants))  # type: ignore[arg-type]
            row = house.why(job)
            assert (row["waits_for"] is None) == (state == "running")
            assert row["waits_for"] in (None, wants)
