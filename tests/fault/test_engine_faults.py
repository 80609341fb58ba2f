"""One fault is charged to one process; the others go on as if nothing had happened."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kelm.errors import ContextTooLong, InvalidRequest, ModelNotFound, OutOfMemory
from kelm.models.batch import Batch
from kelm.testing.drive import Driver
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.messages import Cancel, Load, Sampling, Submit
from kelm.worker.settings import EngineSettings

KIND = EngineSettings(memory_bytes=1 << 20, kv_bytes=20 * 2048, slab_bytes=2048, step_tokens=64, poison=True)


def requests(count: int, n: int = 1) -> list[Submit]:
    rng = random.Random(count)
    return [
        Submit(
            pid=pid,
            model="model",
            prompt=[rng.randrange(101) for _ in range(rng.randint(2, 40))],
            sampling=Sampling(seed=pid, max_tokens=12, temperature=pid % 2),
            n=n,
        )
        for pid in range(count)
    ]


def culprit_of(batch: Batch, tokens: list[int]) -> bool:
    """Whether the batch computes a sequence that has ``tokens`` in a row somewhere."""
    rows = batch.tokens.tolist()
    return any(rows[i : i + len(tokens)] == tokens for i in range(len(rows)))


@pytest.mark.parametrize("n", [1, 3])
def test_a_forward_that_fails_is_charged_to_its_sequence(n: int) -> None:
    work = requests(9, n)
    undisturbed = Driver(KIND, open_hash_model(HashModel())).run(work)
    model = HashModel()

    def fault(batch: Batch) -> None:
        if culprit_of(batch, work[5].prompt[-2:]):
            raise ZeroDivisionError("op failed")

    model.fault = fault
    driver = Driver(KIND, open_hash_model(model))
    heard = driver.run(work)
    assert set(heard.failed) == {5}
    assert heard.failed[5].code == "worker_failed"
    assert "op failed" not in heard.failed[5].message
    assert heard.tokens == {choice: ids for choice, ids in undisturbed.tokens.items() if choice[0] != 5}
    assert heard.counters is not None and heard.counters.blocks_free == heard.counters.blocks_total


def test_two_culprits_and_a_fault_that_passes() -> None:
    work = requests(9)
    undisturbed = Driver(KIND, open_hash_model(HashModel())).run(work)
    model = HashModel()
    calls = 0

    def fault(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        if calls == 3 and len(batch.spans) > 1:
            raise RuntimeError("only once")
        if any(culprit_of(batch, work[pid].prompt[-2:]) for pid in (0, 8)):
            raise RuntimeError

    model.fault = fault
    heard = Driver(KIND, open_hash_model(model)).run(work)
    assert set(heard.failed) == {0, 8}
    assert heard.tokens == {choice: ids for choice, ids in undisturbed.tokens.items() if choice[0] not in (0, 8)}


def test_not_finite_logits_fail_their_process_only() -> None:
    class Broken(HashModel):
        def forward(self, batch: Batch) -> np.ndarray:
            logits = super().forward(batch)
            for row, token in enumerate(batch.tokens[batch.logit_rows]):
                if token == 100:
                    logits[row, 3] = np.nan
            return logits

    fine = Submit(pid=1, model="model", prompt=[1, 2], sampling=Sampling(seed=0, max_tokens=1, temperature=0))
    bad = Submit(pid=2, model="model", prompt=[1, 100], sampling=Sampling(seed=0, max_tokens=1, temperature=0))
    heard = Driver(KIND, open_hash_model(Broken())).run([fine, bad])
    assert set(heard.failed) == {2}
    assert heard.ends == {(1, 0): ("length", None)}


def test_cancel_at_every_phase_200_times() -> None:
    """Waiting, in the prompt, forking, decoding, preempted, paused, in the step of its end: blocks come back."""
    for seed in range(200):
        rng = random.Random(seed)
        driver = Driver(KIND, open_hash_model(HashModel()))
        work = requests(4, n=rng.choice([1, 3]))
        doomed, moment = rng.choice(work), rng.randint(0, 30)

        def cancel(driver: Driver, step: int, doomed: Submit = doomed, moment: int = moment) -> None:
            if step == moment // 2:
                driver.engine.pause(doomed.pid)
            if step == moment:
                driver.engine.cancel(Cancel(doomed.pid))

        heard = driver.run(work, between=cancel)
        driver.engine.resume(doomed.pid)
        heard = driver.run([])
        assert heard.counters is not None
        assert heard.counters.blocks_free == heard.counters.blocks_total
        assert len(heard.ends) == sum(one.n for one in work)


def test_what_cannot_be_run_is_refused_at_submission() -> None:
    driver = Driver(KIND, open_hash_model(HashModel()))
    greedy = Sampling(seed=0, max_tokens=5)

    def submit(**fields: object) -> None:
        driver.engine.submit(Submit(**({"pid": 1, "model": "model", "prompt": [1], "sampling": greedy} | fields)))

    with pytest.raises(ModelNotFound, match="not loaded"):
        submit(model="other")
    with pytest.raises(InvalidRequest, match="no tokens"):
        submit(prompt=[])
    with pytest.raises(InvalidRequest, match="vocabulary of 101"):
        submit(prompt=[5, 101])
    with pytest.raises(InvalidRequest, match="vocabulary"):
        submit(sampling=Sampling(seed=0, max_tokens=1, logit_bias={-1: 3.0}))
    with pytest.raises(InvalidRequest, match="known tokens"):
        submit(n=2, generated=[[1]])
    room = driver.loaded.max_context_tokens
    assert room < 4096, "the tiny arena bounds the context"
    with pytest.raises(ContextTooLong, match=f"at most {room - 1}"):
        submit(prompt=[1] * room)
    submit(prompt=[1] * (room - 1))
    with pytest.raises(InvalidRequest, match="running already"):
        submit()
    heard = driver.run([])
    assert heard.ends == {(1, 0): ("length", None)}, "what fits is run to the end of the arena"


def test_a_load_that_does_not_fit_is_refused_before_it_is_made(tmp_path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1 << 20))
    with pytest.raises(OutOfMemory, match="missing"):
        Driver(KIND, open_hash_model(HashModel()), {"model.safetensors": str(weights)})


def test_unload_ends_its_processes_and_gives_everything_back() -> None:
    driver = Driver(KIND, open_hash_model(HashModel()))
    for request in requests(3):
        driver.engine.submit(request)
    driver.heard.hear(driver.engine.step())
    driver.engine.unload("model")
    heard = driver.run([])
    assert {end for end, _ in heard.ends.values()} == {"abort"}
    driver.engine.load(Load(model="model", files={}))
    later = requests(4)[3]
    assert driver.run([later]).ends[(later.pid, 0)] == ("length", None)
