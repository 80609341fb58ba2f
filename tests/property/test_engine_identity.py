"""What a request returns does not depend on who else is served, how the work is cut, or what goes wrong meanwhile.

On the hash model: any wrong page, position or order of K and V changes an integer.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_kit import ROOMY, Shape, alone, baseline, joined, resubmissions, same, workload
from kelm.testing.drive import Driver
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.messages import Cancel, Sampling, Submit
from kelm.worker.settings import EngineSettings

SHAPE = Shape(vocab=101)


def make(kind: EngineSettings) -> Driver:
    return Driver(kind, open_hash_model(HashModel(SHAPE.vocab)))


def tight(rng: random.Random) -> EngineSettings:
    """Barely room for the longest sequence: 4 and 8 blocks a slab."""
    return EngineSettings(
        memory_bytes=1 << 20,
        kv_bytes=rng.randint(8, 14) * 2048,
        slab_bytes=2048,
        step_tokens=rng.choice([16, 23, 64]),
        max_num_seqs=rng.choice([1, 3, 8, 64]),
        poison=True,
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 30))
def test_tiny_pools_preemption_and_chunks(seed: int) -> None:
    rng = random.Random(seed)
    requests = workload(rng, 12, SHAPE)
    heard = make(tight(rng)).run(requests)
    same(heard, alone(make, requests))
    baseline(heard)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_pausing_resuming_and_late_arrivals(seed: int) -> None:
    rng = random.Random(seed)
    requests = workload(rng, 10, SHAPE)
    late = list(requests[4:])

    def disturb(driver: Driver, step: int) -> None:
        for request in requests:
            if rng.random() < 0.1:
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

    heard = make(tight(rng)).run(requests[:4], between=disturb)
    same(heard, alone(make, requests))
    baseline(heard)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_restart_at_any_step_goes_on_identically(seed: int) -> None:
    rng = random.Random(seed)
    requests = workload(rng, 8, SHAPE)
    first = make(tight(rng))
    for request in requests:
        first.engine.submit(request)
    for _ in range(rng.randint(0, 60)):
        step = first.engine.step()
        if step is not None:
            first.heard.hear(step)
    again = resubmissions(requests, first.heard)
    second = make(tight(rng)).run(again)
    same(joined(first.heard, second), alone(make, requests))
    assert not any(any(one.generated) for one in again if one.pid in second.prompts), "prompts reported twice"
    baseline(second)


@pytest.mark.parametrize("step_tokens", [16, 17, 31, 100, 512])
def test_a_batch_of_32_with_any_chunk_size(step_tokens: int) -> None:
    requests = workload(random.Random(32), 32, SHAPE)
    kind = EngineSettings(memory_bytes=64 << 20, kv_bytes=8 << 20, slab_bytes=1 << 16, step_tokens=step_tokens)
    heard = make(kind).run(requests)
    same(heard, alone(make, requests))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_cancelled_choices_leave_the_others_alone(seed: int) -> None:
    rng = random.Random(seed)
    requests = workload(rng, 8, SHAPE)
    wanted = alone(make, requests)

    def disturb(driver: Driver, step: int) -> None:
        if rng.random() < 0.2:
            request = rng.choice(requests)
            driver.engine.cancel(Cancel(request.pid, rng.choice([None, *range(request.n)])))

    heard = make(tight(rng)).run(requests, between=disturb)
    baseline(heard)
    assert heard.ends.keys() == wanted.ends.keys()
    for choice, ids in wanted.tokens.items():
        got = heard.tokens.get(choice, [])
        if heard.ends[choice][0] == "abort":
            assert got == ids[: len(got)]
        else:
            assert (got, heard.ends[choice]) == (ids, wanted.ends[choice])


def test_forks_share_the_prompt_and_copy_on_write() -> None:
    """62 prompt tokens and 3 generated ones each: computed once, held once, the last block copied."""
    model = HashModel(SHAPE.vocab)
    computed: list[int] = []
    model.fault = lambda batch: computed.append(len(batch.tokens))
    driver = Driver(ROOMY, open_hash_model(model))
    sampling = Sampling(seed=5, max_tokens=3, temperature=1.5)
    held: list[int] = []

    def look(driver: Driver, step: int) -> None:
        if driver.heard.counters is not None:
            held.append(driver.heard.counters.blocks_total - driver.heard.counters.blocks_free)

    heard = driver.run([Submit(pid=1, model="model", prompt=[7] * 62, sampling=sampling, n=4)], between=look)
    assert computed == [62, 4, 4]
    assert len({tuple(ids) for ids in heard.tokens.values()}) > 1
    full, window = 2, 1  # in blocks of the smaller kind
    assert held[0] == 4 * full + 4 * window
    assert held[1] == 4 * full + 2 * window + 3 * (full + window)  # two fell out of the window, the last is copied
    assert held[-1] == 0


def test_a_resumed_elder_takes_blocks_from_a_member_of_the_same_step() -> None:
    """The younger one decodes, so it is placed first; then the elder's next chunk finds the pool dry."""
    kind = EngineSettings(memory_bytes=1 << 20, kv_bytes=7 * 2048, slab_bytes=2048, step_tokens=17, poison=True)
    sampling = Sampling(seed=1, max_tokens=100, temperature=1.0)
    elder = Submit(pid=1, model="model", prompt=[5] * 300, sampling=Sampling(seed=1, max_tokens=3))
    younger = Submit(pid=2, model="model", prompt=[6] * 8, sampling=sampling)

    def disturb(driver: Driver, step: int) -> None:
        if step == 12:
            driver.engine.pause(elder.pid)
            driver.engine.submit(younger)
        if step == 12 + 70:
            driver.engine.resume(elder.pid)

    heard = make(kind).run([elder], between=disturb)
    same(heard, alone(make, [elder, younger]))
    assert heard.counters is not None and heard.counters.preemptions > 0
