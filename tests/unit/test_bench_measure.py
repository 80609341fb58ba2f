"""kelm.bench: what is timed, what follows from it, and what is refused before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.contenders import DRIVERS, Driver
from kelm import LLM
from kelm.bench import Figures, Plan, measure, read_streams
from kelm.bench.bandwidth import Bandwidth
from kelm.bench.figures import Decode
from kelm.bench.measure import Stopwatch
from kelm.clock import ManualClock
from kelm.errors import ContextTooLong, InvalidRequest, OutOfMemory, UnsupportedModel
from kelm.store import Store
from kelm.testing.checkpoints import write_llama
from kelm.wire.messages import Counters, Step, Tokens


def step(*pids: int, ids: int = 1) -> Step:
    counters = Counters(
        blocks_free=0, blocks_total=0, running=0, waiting=0, preemptions=0, prompt_tokens=0, generated_tokens=0,
        recomputed_tokens=0, cached_tokens=0, steps={}, rows=len(pids),
    )  # fmt: skip
    return Step(number=1, seconds=0, counters=counters, tokens=[Tokens(pid, 0, [5] * ids) for pid in pids])


def test_only_steps_in_which_all_decode_are_timed() -> None:
    clock = ManualClock()
    watch = Stopwatch(2, clock)
    for seconds, seen in (
        (1, step()),
        (2, step(7)),
        (4, step(7, 8)),
        (8, step(7, 8)),
        (16, step(7, 8, ids=3)),
        (32, step(8)),
    ):
        clock.advance(seconds)
        watch(seen)
    assert watch.prefill_s == 1 + 2 + 4
    assert (watch.full_s, watch.full_tokens) == ([8, 16], 2 + 6)


def test_share_of_the_bandwidth() -> None:
    found = Figures(
        model="m", architecture="a", executor="torch", dtype="bfloat16", threads=1, processor="p", isa=None,
        parameters=1, weight_bytes=1000, load_s=1, prompt_tokens=50, first_token_s=0.5, tokens=4,
        decode=(Decode(4, tokens_s=200, step_s=0.02),), bandwidth=100_000,
    )  # fmt: skip
    assert found.share(found.decode[0]) == pytest.approx(0.5)
    assert found.prefill_tokens_s == 100
    assert found.as_json()["decode"] == [{"streams": 4, "tokens_s": 200, "step_s": 0.02, "bandwidth_share": 0.5}]


def test_bandwidth_is_that_of_the_best_pass() -> None:
    class Ticking(ManualClock):
        def monotonic_s(self) -> float:
            self.advance(next(ticks))
            return super().monotonic_s()

    ticks = iter([0.0, 4.0, 0.0, 1.0, 0.0, 2.0])
    assert Bandwidth(1_000_001, 1, Ticking()).measure() == 1_000_008


def test_a_plan_fits_the_context() -> None:
    fitted = Plan().fitted(100_000)
    assert (fitted.prompt_tokens, fitted.tokens) == (512, 64)
    fitted = Plan().fitted(128)
    assert (fitted.prompt_tokens, fitted.tokens) == (64, 32)
    with pytest.raises(ContextTooLong, match="100 prompt tokens and 29 tokens do not fit the context of 128"):
        Plan(100, 29).fitted(128)
    assert Plan(100, 28).fitted(128).tokens == 28


@pytest.mark.parametrize(
    "fields", [{"prompt_tokens": 0}, {"tokens": 1}, {"repeats": 0}, {"streams": (1, 0)}, {"streams": (4097,)}]
)
def test_a_plan_out_of_bounds(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(fields))):
        Plan(**fields)  # type: ignore[arg-type]


def test_streams_are_read() -> None:
    assert read_streams("4,1, 16,4") == (1, 4, 16)
    for text in ("", "1,,2", "1;2", "one"):
        with pytest.raises(InvalidRequest, match="--streams must be numbers"):
            read_streams(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    Store(home).import_folder(write_llama(tmp_path_factory.mktemp("checkpoint")), "tiny")
    return home


@pytest.fixture(scope="module")
def llm(home: Path) -> Iterator[LLM]:
    llm = LLM("tiny", home=home, threads=1, memory=256 << 20)
    yield llm
    llm.close()


def test_a_model_is_measured(llm: LLM) -> None:
    seen: list[tuple[str, int, int]] = []
    found = measure(llm, Plan(40, 8, (1, 3), repeats=2), 1.5, lambda *now: seen.append(now))
    assert [one.streams for one in found.decode] == [1, 3]
    assert all(one.tokens_s == pytest.approx(one.streams / one.step_s, rel=0.5) for one in found.decode)
    assert (found.load_s, found.prompt_tokens, found.tokens, found.executor) == (1.5, 40, 8, llm.info.executor)
    assert found.weight_bytes == llm.info.weight_bytes
    assert found.bandwidth is not None and found.bandwidth > 1e6
    assert seen[0] == ("prefill", 0, 6)
    assert seen[-1] == ("3 at once", 6, 6)


def test_streams_that_never_run_together(llm: LLM) -> None:
    rows = llm.settings.max_num_seqs
    with pytest.raises(OutOfMemory, match=f"{rows + 1} streams of .* never ran together"):
        measure(llm, Plan(2, 2, (rows + 1,), repeats=1), 0)


def test_what_does_not_generate_is_refused(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    monkeypatch.setattr(llm, "info", msgspec.structs.replace(llm.info, tasks=["embed"]))
    with pytest.raises(UnsupportedModel, match="can embed; kelm bench measures models that generate"):
        measure(llm, Plan(), 0)


def test_kelms_two_drivers_give_the_same_tokens(home: Path) -> None:
    prompts = [[3 + number + at for at in range(300)] for number in range(3)]
    last = []
    for name in ("engine.py", "executor.py"):
        command = [sys.executable, DRIVERS / name, "tiny", "float32", "1"]
        driver = Driver(command, {"KELM_HOME": str(home), "KELM_MEMORY": "64MiB"})
        facts = driver.start()
        assert (facts.ours, facts.precision, facts.kv) == (True, "float32", "f32")
        timing = driver.run(prompts, 9)
        assert timing.tokens == 27
        last.append(timing.last)
        assert driver.run(prompts[:1], 9).last == timing.last[:1]
        many = [[(3 + number + at) % 400 for at in range(400)] for number in range(24)]
        for _ in range(8):  # more than the arena holds: a run leaves nothing behind
            driver.run(many, 1)
        driver.stop()
    assert len(last[0]) == 3
    assert last[0] == last[1]
