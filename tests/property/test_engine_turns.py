"""Priorities, tenants and parking in the worker's core: who gets rows changes, what anybody gets does not.

On the hash model, as test_engine_identity.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_kit import ROOMY, Shape, alone, baseline, joined, resubmissions, same, workload
from kelm.testing.drive import Driver, Transcript
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.messages import Load, Report, Sampling, Step, StepBegin, Submit
from kelm.worker.engine import Engine
from kelm.worker.settings import EngineSettings

SHAPE = Shape(vocab=101)


@dataclass
class Table(Transcript):
    """What a daemon would know of processes, tenants and steps; contradictions are AssertionErrors."""

    states: dict[int, str] = field(default_factory=dict)
    wants: dict[int, str] = field(default_factory=dict)
    parked: dict[int, int] = field(default_factory=dict)
    preempted: dict[int, int] = field(default_factory=dict)
    served: dict[int, int] = field(default_factory=dict)
    counters_of: dict[int, float] = field(default_factory=dict)
    recomputed: int = 0
    rows: list[list[int]] = field(default_factory=list)

    def hear(self, report: Report) -> None:
        super().hear(report)
        if isinstance(report, StepBegin):
            self.rows.append(report.pids)
        elif isinstance(report, Step):
            self.recomputed += sum(report.recomputed.values())
            for charge in report.charges:
                self.served[charge.share] = self.served.get(charge.share, 0) + charge.tokens
                assert charge.counter >= self.counters_of.get(charge.share, 0.0)
                self.counters_of[charge.share] = charge.counter
            for move in report.moves:
                before = self.states.get(move.pid)
                self.parked[move.pid] = self.parked.get(move.pid, 0) + (move.state == "parked" != before)
                lost = move.state == "queued" and before in ("running", "parked")
                self.preempted[move.pid] = self.preempted.get(move.pid, 0) + lost
                self.states[move.pid], self.wants[move.pid] = move.state, move.wants
                assert (move.state == "running") == (move.wants == "")


def driver(kind: EngineSettings) -> Driver:
    made = Driver(kind, open_hash_model(HashModel(SHAPE.vocab)))
    made.heard = Table()
    made.engine._report = made.heard.hear
    return made


def table_of(heard: Transcript) -> Table:
    assert isinstance(heard, Table)
    return heard


def tight(rng: random.Random) -> EngineSettings:
    return EngineSettings(
        memory_bytes=1 << 20,
        kv_bytes=rng.randint(8, 14) * 2048,
        slab_bytes=2048,
        step_tokens=rng.choice([16, 23, 64]),
        max_num_seqs=rng.choice([1, 2, 3, 8]),
        poison=True,
    )


def placed(rng: random.Random, requests: Iterable[Submit]) -> list[Submit]:
    """With a priority and a tenant each."""
    return [
        msgspec.structs.replace(
            one, priority=rng.choice([-5, 0, 0, 0, 9]), share=rng.randrange(3), weight=rng.choice([1, 2, 5])
        )
        for one in requests
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_whoever_goes_first_everybody_finishes_with_the_same_tokens(seed: int) -> None:
    """Priorities change on the way, readers are slow, more come late, the pool is dry and rows are few. A step always
    runs somebody (Driver.run), so somebody always finishes."""
    rng = random.Random(seed)
    requests = placed(rng, workload(rng, 12, SHAPE))
    late = list(requests[5:])

    def disturb(driver: Driver, step: int) -> None:
        for request in requests:
            if rng.random() < 0.1:
                driver.engine.renice(request.pid, rng.randint(-9, 9))
            if rng.random() < 0.05:
                driver.engine.pause(request.pid)
            elif rng.random() < 0.5:
                driver.engine.resume(request.pid)
        if late and rng.random() < 0.3:
            driver.engine.submit(late.pop(0))
        if step > 300 or not driver.engine.has_work():
            for request in requests:
                driver.engine.resume(request.pid)
            while late:
                driver.engine.submit(late.pop(0))

    heard = driver(tight(rng)).run(requests[:5], between=disturb)
    same(heard, alone(driver, requests))
    baseline(heard)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 30))
def test_what_is_told_of_processes_is_what_the_steps_did(seed: int) -> None:
    """running: in the last step of all; parked and queued: not in it, and with or without blocks."""
    rng = random.Random(seed)
    requests = placed(rng, workload(rng, 10, SHAPE))

    def look(driver: Driver, step: int) -> None:
        table = table_of(driver.heard)
        if not table.rows:
            return
        generations = driver.engine._roster.generations
        for pid, generation in generations.items():
            assert (table.states[pid] == "running") == (pid in table.rows[-1])
            holds = any(one.tables is not None for one in generation.choices.values())
            assert table.states[pid] == "running" or holds == (table.states[pid] == "parked")

    heard = driver(tight(rng)).run(requests, between=look)
    table = table_of(heard)
    assert heard.counters is not None
    assert sum(table.preempted.values()) <= heard.counters.preemptions
    assert table.recomputed == heard.counters.recomputed_tokens
    assert bool(table.recomputed) <= bool(heard.counters.preemptions)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 30))
def test_each_token_is_charged_once_to_its_tenant(seed: int) -> None:
    """Cached ones are not, recomputed ones not again, and those that led a dead worker's answers not again."""
    rng = random.Random(seed)
    requests = placed(rng, workload(rng, 8, SHAPE))
    heard = driver(tight(rng)).run(requests)
    table = table_of(heard)
    for share in {one.share for one in requests}:
        mine = [one for one in requests if one.share == share]
        # nobody computes K and V of a choice's last token
        answers = sum(len(ids) - 1 for (pid, _), ids in heard.tokens.items() if any(pid == one.pid for one in mine))
        prompts = sum(len(one.prompt) - heard.cached[one.pid] for one in mine)
        assert table.served[share] == prompts + answers
    assert sum(table.served.values()) > 0


def test_a_restart_charges_nothing_again_and_goes_on_from_the_counters_that_are_handed_back() -> None:
    sampling = Sampling(seed=3, max_tokens=40, temperature=1.0)
    requests = [Submit(pid=n, model="model", prompt=[n] * 20, sampling=sampling, share=n) for n in (1, 2)]
    first = driver(ROOMY)
    for request in requests:
        first.engine.submit(request)
    for _ in range(10):
        first.heard.hear(first.engine.step())
    died = table_of(first.heard)
    assert died.counters_of == {1: 29.0, 2: 29.0}
    again = [
        msgspec.structs.replace(one, counter=died.counters_of[one.share])
        for one in resubmissions(requests, first.heard)
    ]
    second = driver(ROOMY).run(again)
    assert table_of(second).counters_of == {1: 59.0, 2: 59.0}
    same(joined(first.heard, second), alone(driver, requests))


NARROW = EngineSettings(memory_bytes=64 << 20, kv_bytes=8 << 20, slab_bytes=1 << 16, step_tokens=512, max_num_seqs=2)


def long(pid: int, **more: int) -> Submit:
    sampling = Sampling(seed=pid, max_tokens=30, temperature=1.0)
    return Submit(pid=pid, model="model", prompt=[pid] * 20, sampling=sampling, **more)


def test_an_urgent_request_has_a_row_in_the_next_step_and_the_parked_one_computes_nothing_twice() -> None:
    requests = [long(1), long(2), long(3, priority=-1)]

    def disturb(driver: Driver, step: int) -> None:
        if step == 10:
            driver.engine.submit(requests[2])

    heard = driver(NARROW).run(requests[:2], between=disturb)
    table = table_of(heard)
    assert table.rows[9] == [1, 2] and table.rows[10] == [3, 1]
    assert table.parked[2] == 1 and table.preempted.get(2, 0) == 0 and table.recomputed == 0
    same(heard, alone(driver, requests))
    assert max(len(pids) for pids in table.rows) == 2


def test_nice_gives_and_takes_a_row_within_one_step() -> None:
    requests = [long(1), long(2), long(3)]

    def disturb(driver: Driver, step: int) -> None:
        if step == 5:
            driver.engine.renice(3, -1)
        if step == 8:
            driver.engine.renice(1, 7)

    heard = driver(NARROW).run(requests, between=disturb)
    table = table_of(heard)
    assert [set(table.rows[step]) for step in (4, 5, 8)] == [{1, 2}, {1, 3}, {2, 3}]
    same(heard, alone(driver, requests))


def test_an_urgent_request_takes_blocks_from_later_ones_when_the_pool_is_full() -> None:
    """7 slabs: two long prompts fill them. The urgent one would have to wait for one of them to end."""
    kind = EngineSettings(memory_bytes=1 << 20, kv_bytes=7 * 2048, slab_bytes=2048, step_tokens=64, poison=True)
    sampling = Sampling(seed=1, max_tokens=60, temperature=1.0)
    slow = [Submit(pid=n, model="model", prompt=[n] * 150, sampling=sampling) for n in (1, 2)]
    urgent = Submit(pid=3, model="model", prompt=[3] * 150, sampling=sampling, priority=-1)

    def disturb(driver: Driver, step: int) -> None:
        if step == 12:
            driver.engine.submit(urgent)

    heard = driver(kind).run(slow, between=disturb)
    table = table_of(heard)
    assert 3 in table.rows[12]
    ends = {pid: max(step for step, pids in enumerate(table.rows) if pid in pids) for pid in (1, 2, 3)}
    assert ends[3] < ends[1] < ends[2] and table.preempted[2] >= 1 and table.preempted[3] == 0
    same(heard, alone(driver, [*slow, urgent]))


@pytest.mark.parametrize(("longer", "shorter"), [(200, 28), (196, 25), (180, 38)])
def test_an_earlier_one_without_a_row_is_run_when_the_one_with_the_row_finds_no_blocks(
    longer: int, shorter: int
) -> None:
    """One row, and the tenant that is behind has it; but all blocks are held, most by the other, who came earlier."""
    kind = EngineSettings(
        memory_bytes=1 << 20, kv_bytes=7 * 2048, slab_bytes=2048, step_tokens=400, max_num_seqs=1, poison=True
    )
    sampling = Sampling(seed=1, max_tokens=50, temperature=1.0)
    first = Submit(pid=1, model="model", prompt=[1] * longer, sampling=sampling, share=1)
    second = Submit(pid=2, model="model", prompt=[2] * shorter, sampling=sampling, share=2, counter=float(longer))
    short_of_blocks = []

    def disturb(driver: Driver, step: int) -> None:
        if step == 1:
            driver.engine.submit(second)
        short_of_blocks.append(table_of(driver.heard).wants.get(2) == "blocks")

    heard = driver(kind).run([first], between=disturb)
    assert any(short_of_blocks)
    same(heard, alone(driver, [first, second]))
    baseline(heard)


def test_two_tenants_split_the_rows_as_their_weights() -> None:
    sampling = Sampling(seed=1, max_tokens=25, temperature=1.0)
    requests = [
        Submit(pid=n, model="model", prompt=[n % 100] * 10, sampling=sampling, share=n % 2, weight=1 + n % 2)
        for n in range(60)
    ]
    heard = driver(NARROW)
    for request in requests:
        heard.engine.submit(request)
    for _ in range(300):
        heard.heard.hear(heard.engine.step())
    served = table_of(heard.heard).served
    assert served[1] / (served[0] + served[1]) == pytest.approx(2 / 3, abs=0.02)


def test_a_renice_of_what_is_over_or_never_was_is_harmless() -> None:
    made = driver(NARROW)
    made.engine.renice(99, 3)
    made.run([long(1)])
    made.engine.renice(1, 3)
    assert not made.engine.has_work()


def test_two_models_take_turns_and_a_parked_process_of_one_is_not_called_preempted() -> None:
    table = Table()
    engine = Engine(NARROW, open_hash_model(HashModel(SHAPE.vocab)), table.hear)
    for model in ("a", "b"):
        engine.load(Load(model=model, files={}))
    for n in range(6):
        engine.submit(msgspec.structs.replace(long(n), model="ab"[n % 2]))
    while engine.has_work():
        table.hear(engine.step())
    assert sum(table.preempted.values()) == 0 and len(table.ends) == 6
    assert {len(pids) for pids in table.rows} <= {1, 2}
