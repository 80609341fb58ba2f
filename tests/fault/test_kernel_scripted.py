"""The kernel against a worker that speaks the wire and misbehaves as told."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel_kit import Answer, generation, kernel_on, make_home, read, sample, until, write_model
from scripted_worker import next_token

from kelm import limits
from kelm.errors import (
    Cancelled,
    ContextTooLong,
    InvalidRequest,
    ModelFormatError,
    ModelNotFound,
    Overloaded,
    Unavailable,
    WorkerFailed,
)
from kelm.kernel.kernel import Kernel
from kelm.kernel.requests import Encoding, Generation
from kelm.store import Store
from kelm.wire.messages import Counters, Step, Tokens

POISON = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("kernel"), "toy", "other")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_BACKOFF_S", replace(limits.RESTART_BACKOFF_S, default=0.01))


def expected(request: Generation, choice: int = 0) -> list[int]:
    """What the scripted worker says, computed here."""
    tokens: list[int] = []
    for _ in range(request.sampling.max_tokens):
        before = tokens[-1] if tokens else request.prompt[-1]
        tokens.append(next_token(request.sampling.seed, choice, len(request.prompt) + len(tokens), before, 256))
    return tokens


async def ask(kernel: Kernel, request: Generation) -> Answer:
    await kernel.resolve(request.model)
    return await read(kernel.submit(request))


async def test_a_generation_from_name_to_text(home: Path) -> None:
    async with kernel_on(home, {}) as kernel:
        request = generation("hello", n=2, max_tokens=8)
        model = await kernel.resolve("toy")
        assert (model.name, model.info.executor) == ("toy:latest", "native")
        process = kernel.submit(request)
        answer = await read(process)
    for choice in (0, 1):
        assert answer.ids[choice] == expected(request, choice)
        assert answer.texts[choice] == bytes(answer.ids[choice]).decode()
        assert answer.ends[choice] == "length"
    assert (process.usage.prompt_tokens, process.usage.completion_tokens) == (5, 16)


async def test_a_stop_string_ends_a_choice_and_what_ran_past_it_is_neither_shown_nor_billed(home: Path) -> None:
    request = generation("stop here", n=2, max_tokens=500)
    text = bytes(expected(request)).decode()
    stop = text[10:13]
    at = text.index(stop)
    async with kernel_on(home, {}) as kernel:
        process = (await kernel.resolve("toy")) and kernel.submit(
            generation("stop here", n=2, max_tokens=500, stop=(stop,))
        )
        answer = await read(process)
        second = bytes(expected(request, 1)).decode()
        shown = second.split(stop)[0] if stop in second else second
        assert answer.texts == {0: text[:at], 1: shown}
        assert answer.ends[0] == "stop"
        used_second = len(shown) + 3 if stop in second else 500
        assert process.usage.completion_tokens == at + 3 + used_second
        total = sample(kernel, "vllm:generation_tokens_total", model_name="toy:latest")
        assert total == process.usage.completion_tokens


async def test_prompt_logprobs_come_with_the_first_chunk(home: Path) -> None:
    async with kernel_on(home, {}) as kernel:
        answer = await ask(kernel, generation("abc", prompt_logprobs=1, max_tokens=3))
    first, *rest = answer.chunks
    assert first.prompt_logprobs is not None and [e and e.token for e in first.prompt_logprobs] == [None, 98, 99]
    assert all(chunk.prompt_logprobs is None for chunk in rest)


async def test_what_is_unfinished_survives_kill_9(home: Path) -> None:
    requests = [generation(f"prompt {i}", n=1 + i % 3, seed=i, max_tokens=120) for i in range(16)]
    async with kernel_on(home, {"step_s": 0.004}) as kernel:
        await kernel.resolve("toy")
        reading = [asyncio.create_task(read(kernel.submit(request))) for request in requests]
        for _ in range(4):
            await asyncio.sleep(0.12)
            await until(lambda: kernel.worker()["state"] == "up")
            os.kill(kernel.worker()["pid"], signal.SIGKILL)
            await until(lambda: kernel.worker()["state"] != "up")
        answers = await asyncio.gather(*reading)
        assert sample(kernel, "kelm_worker_restarts_total") == 4
    for request, answer in zip(requests, answers, strict=True):
        assert answer.ids == {choice: expected(request, choice) for choice in range(request.n)}


async def test_a_poisonous_request_fails_alone_and_the_others_are_untouched(home: Path) -> None:
    good = [generation(f"good {i}", seed=i, max_tokens=60) for i in range(7)]
    bad = generation("bad \x07", max_tokens=60)
    async with kernel_on(home, {"die_on": POISON, "die_after": 20}) as kernel:
        await kernel.resolve("toy")
        reading = [asyncio.create_task(read(kernel.submit(request))) for request in [*good[:3], bad, *good[3:]]]
        results = await asyncio.gather(*reading, return_exceptions=True)
        failed = results.pop(3)
        assert isinstance(failed, WorkerFailed), failed
        for request, answer in zip(good, results, strict=True):
            assert isinstance(answer, Answer) and answer.ids[0] == expected(request)
        assert kernel.worker()["restarts"] <= 6  # 8 suspects: 8, 4, 2, 1, and once more alone
        assert (await ask(kernel, good[0])).ids[0] == expected(good[0])


async def test_a_poisonous_request_that_kills_on_arrival_fails_alone(home: Path) -> None:
    good = [generation(f"good {i}", seed=i, max_tokens=40) for i in range(5)]
    async with kernel_on(home, {"die_on": POISON}) as kernel:
        await kernel.resolve("toy")
        reading = [asyncio.create_task(read(kernel.submit(request))) for request in good]
        await asyncio.sleep(0.02)
        with pytest.raises(WorkerFailed, match="alone"):
            await read(kernel.submit(generation("\x07")))
        for request, answer in zip(good, await asyncio.gather(*reading), strict=True):
            assert answer.ids[0] == expected(request)


async def test_an_encoding_is_cut_into_pieces_and_survives_too(home: Path, tmp_path: Path) -> None:
    inputs = [[1, i] * (i + 1) for i in range(8, 40)]
    request = Encoding(request_id="e", model="toy", task="embed", inputs=inputs)
    async with kernel_on(home, {"log": str(tmp_path / "log"), "step_s": 0.01}, step_tokens=64) as kernel:
        await kernel.resolve("toy")
        arrays = await kernel.encode(request)
        assert [array.tolist() for array in arrays] == [[len(i), sum(i)] for i in inputs]
        assert (tmp_path / "log").read_text().count("Encode") > 10
        encoding = asyncio.create_task(kernel.encode(request))
        await asyncio.sleep(0.05)
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        assert [array.tolist() for array in await encoding] == [array.tolist() for array in arrays]
        assert kernel.worker()["restarts"] == 1


async def test_a_poisonous_encoding_fails_alone(home: Path) -> None:
    async with kernel_on(home, {"die_on": POISON}) as kernel:
        await kernel.resolve("toy")
        reading = asyncio.create_task(read(kernel.submit(generation("good", max_tokens=300))))
        with pytest.raises(WorkerFailed):
            await kernel.encode(Encoding(request_id="e", model="toy", task="embed", inputs=[[1], [POISON]]))
        assert (await reading).ids[0] == expected(generation("good", max_tokens=300))


async def test_a_hung_worker_is_replaced(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_HANG_S", replace(limits.WORKER_HANG_S, default=0.5))
    request = generation("slow")
    async with kernel_on(home, {"hang_once": str(tmp_path / "hung")}) as kernel:
        assert (await ask(kernel, request)).ids[0] == expected(request)
        assert kernel.worker()["restarts"] == 1
        await asyncio.sleep(0.8)  # idle is not hung
        assert kernel.worker()["restarts"] == 1


async def test_a_slow_reader_is_paused_and_a_bystander_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_BUFFER_BYTES", replace(limits.STREAM_BUFFER_BYTES, default=2000))
    slow_request, quick_request = generation("slow", max_tokens=400), generation("quick", max_tokens=200)
    async with kernel_on(home, {}) as kernel:
        await kernel.resolve("toy")
        slow = kernel.submit(slow_request)
        quick = asyncio.create_task(read(kernel.submit(quick_request)))
        await until(lambda: slow.record.state == "paused")
        assert (await quick).ids[0] == expected(quick_request)
        await asyncio.sleep(0.1)
        assert slow.buffered_bytes < 4000  # the buffer, and what was on the way
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        await until(lambda: kernel.worker()["restarts"] == 1 and kernel.worker()["state"] == "up")
        assert (await read(slow)).ids[0] == expected(slow_request)


async def test_a_reader_that_takes_nothing_is_cut(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_BUFFER_BYTES", replace(limits.STREAM_BUFFER_BYTES, default=2000))
    monkeypatch.setattr(limits, "STALL_TIMEOUT_S", replace(limits.STALL_TIMEOUT_S, default=0.3))
    async with kernel_on(home, {}) as kernel:
        await kernel.resolve("toy")
        process = kernel.submit(generation("never read", max_tokens=5000))
        await until(lambda: process.record.finished)
        assert (process.record.state, process.buffered_bytes) == ("cancelled", 0)
        with pytest.raises(Cancelled, match="nothing was read"):
            await read(process)


async def test_clients_that_go_at_any_moment_leave_nothing_behind(home: Path) -> None:
    async with kernel_on(home, {"step_s": 0.0005}, max_num_seqs=512) as kernel:
        assert len((await ask(kernel, generation("warm"))).ids[0]) == 20
        free = sample(kernel, "kelm_kv_blocks_total")

        async def drop(number: int) -> None:
            process = kernel.submit(generation(f"gone {number}", n=1 + number % 3, max_tokens=90_000))
            await asyncio.sleep(number % 40 * 0.002)
            process.cancel()
            process.cancel()
            assert process.record.finished

        await asyncio.gather(*(drop(number) for number in range(200)))
        assert kernel.processes() == []
        await until(lambda: sample(kernel, "kelm_kv_blocks_free") == free)


async def test_over_the_queue_bound_it_is_429_and_the_admitted_ones_finish(home: Path) -> None:
    async with kernel_on(home, {"step_s": 0.01}, max_num_seqs=4, max_queued=3) as kernel:
        await kernel.resolve("toy")
        admitted = [kernel.submit(generation(f"p{i}", n=2)) for i in range(5)]
        with pytest.raises(Overloaded) as refused:
            kernel.submit(generation("one too many"))
        assert refused.value.retry_after_s is not None and 1 <= refused.value.retry_after_s <= 3
        await asyncio.gather(*(read(process) for process in admitted))
        assert len((await ask(kernel, generation("later"))).ids[0]) == 20


async def test_what_cannot_be_run_is_refused_before_it_is_a_process(home: Path) -> None:
    async with kernel_on(home, {"context": 30}) as kernel:
        with pytest.raises(ModelNotFound, match="did you mean toy"):
            await kernel.resolve("toi")
        with pytest.raises(ModelNotFound, match="not loaded"):
            kernel.submit(generation("x"))
        await kernel.resolve("toy")
        with pytest.raises(ContextTooLong, match="context is 30 tokens, but 31"):
            kernel.submit(generation("x" * 11, max_tokens=20))
        assert len((await ask(kernel, generation("x" * 10, max_tokens=20))).ids[0]) == 20
        for prompt in ([], [256], [-1]):
            with pytest.raises(InvalidRequest):
                kernel.submit(replace_prompt(generation("x"), prompt))
        assert kernel.processes() == []


def replace_prompt(request: Generation, prompt: list[int]) -> Generation:
    from msgspec.structs import replace

    return replace(request, prompt=prompt)


async def test_one_load_for_many_who_wait(home: Path, tmp_path: Path) -> None:
    async with kernel_on(home, {"log": str(tmp_path / "log")}) as kernel:
        found = await asyncio.gather(*(kernel.resolve(name) for name in ["toy", "toy:latest", "toy"] * 5))
        assert all(model is found[0] for model in found)
        assert (tmp_path / "log").read_text().count("Load") == 1


async def test_a_load_that_fails_is_the_error_of_those_who_asked(home: Path) -> None:
    async with kernel_on(home, {"refuse": "other"}) as kernel:
        await kernel.resolve("toy")
        results = await asyncio.gather(*(kernel.resolve("other") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, ModelFormatError) for error in results)
        assert [row["name"] for row in kernel.resident()] == ["toy:latest"]


async def test_a_load_that_kills_the_worker_is_given_up_and_the_others_go_on(home: Path) -> None:
    request = generation("going on", max_tokens=400)
    async with kernel_on(home, {"die_on_load": "other"}) as kernel:
        await kernel.resolve("toy")
        reading = asyncio.create_task(read(kernel.submit(request)))
        with pytest.raises(WorkerFailed, match="while it loaded other"):
            await kernel.resolve("other")
        assert (await reading).ids[0] == expected(request)


async def test_unload_ends_what_runs_on_it(home: Path) -> None:
    async with kernel_on(home, {}) as kernel:
        await kernel.resolve("toy")
        await kernel.resolve("other")
        process = kernel.submit(generation("x", max_tokens=90_000))
        bystander = asyncio.create_task(read(kernel.submit(generation("y", model="other"))))
        await kernel.unload("toy")
        with pytest.raises(Cancelled, match="unloaded"):
            await read(process)
        await bystander
        assert [row["name"] for row in kernel.resident()] == ["other:latest"]
        with pytest.raises(ModelNotFound):
            await kernel.unload("toy")
        reading = asyncio.create_task(ask(kernel, generation("back again")))
        await until(lambda: len(kernel.resident()) == 2 and kernel.processes())
        unloading = asyncio.create_task(kernel.unload("other"))
        os.kill(kernel.worker()["pid"], signal.SIGKILL)  # a dead worker has dropped everything
        await unloading
        assert (await reading).ids[0] == expected(generation("back again"))


async def test_drain_lets_finish_then_ends_the_rest_and_leaves_no_orphan(home: Path) -> None:
    async with kernel_on(home, {"step_s": 0.005}) as kernel:
        await kernel.resolve("toy")
        short = asyncio.create_task(read(kernel.submit(generation("short", max_tokens=20))))
        long = asyncio.create_task(read(kernel.submit(generation("long", max_tokens=90_000))))
        await asyncio.sleep(0)
        worker_pid = kernel.worker()["pid"]
        draining = asyncio.create_task(kernel.drain(0.5))
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            kernel.submit(generation("late"))
        await draining
        assert (await short).ends == {0: "length"}
        with pytest.raises(Unavailable, match="shut down"):
            await long
        with pytest.raises(ProcessLookupError):
            os.kill(worker_pid, 0)


async def test_a_worker_that_never_says_hello_is_an_error_at_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_START_S", replace(limits.WORKER_START_S, default=0.3))
    with pytest.raises(Unavailable, match="said nothing within"):
        async with kernel_on(home, {"never_hello": True}):
            pass


async def test_the_counters_never_go_back(home: Path) -> None:
    async with kernel_on(home, {}) as kernel:
        await ask(kernel, generation("one"))
        before: dict[str, Any] = {"steps": sample(kernel, "kelm_steps_total", executor="native")}
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        await until(lambda: kernel.worker()["restarts"] == 1)
        await ask(kernel, generation("two"))
        assert sample(kernel, "kelm_steps_total", executor="native") == before["steps"] + 20
        assert sample(kernel, "vllm:generation_tokens_total", model_name="toy:latest") == 40
        assert sample(kernel, "vllm:prompt_tokens_total", model_name="toy:latest") == 6


async def test_a_name_that_gets_new_content_leaves_nothing_of_the_old(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUPERSEDED_S", replace(limits.SUPERSEDED_S, default=0.2))
    store = Store(home, packaged=home / "none")
    store.import_folder(write_model(tmp_path / "one", 11), "changing")
    old_request = generation("old", model="changing", max_tokens=2000)
    async with kernel_on(home, {}) as kernel:
        old = await kernel.resolve("changing")
        reading = asyncio.create_task(read(kernel.submit(old_request)))
        store.import_folder(write_model(tmp_path / "two", 12), "changing")
        new = await kernel.resolve("changing")
        assert new.key != old.key
        assert {row["name"] for row in kernel.resident()} == {"changing:latest"} and len(kernel.resident()) == 2
        assert kernel.submit(generation("new", model="changing")).record.key == new.key
        assert (await reading).ids[0] == expected(old_request)
        await until(lambda: len(kernel.resident()) == 1)


async def test_while_no_worker_comes_up_requests_end_and_later_ones_are_served_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WORKER_START_TRIES", replace(limits.WORKER_START_TRIES, default=2))
    broken = tmp_path / "broken"
    async with kernel_on(home, {"exit_while": str(broken)}) as kernel:
        await kernel.resolve("toy")
        process = kernel.submit(generation("cut", max_tokens=90_000))
        broken.touch()
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        loading = asyncio.create_task(kernel.resolve("other"))
        with pytest.raises(Unavailable, match="does not start"):
            await read(process)
        with pytest.raises(Unavailable, match="does not start"):
            await loading
        broken.unlink()
        assert (await ask(kernel, generation("again"))).ids[0] == expected(generation("again"))


async def test_a_report_that_makes_no_sense_is_charged_to_its_own_process(home: Path) -> None:
    async with kernel_on(home, {}) as kernel:
        await kernel.resolve("toy")
        wrong, right = kernel.submit(generation("wrong")), kernel.submit(generation("right"))
        nonsense = Tokens(wrong.pid, 5, [1])
        counters = Counters(1, 1, 0, 0, 0, 0, 0, 0, 0, {})
        kernel._work.report(Step(number=1, seconds=0, counters=counters, tokens=[nonsense]))
        with pytest.raises(WorkerFailed, match="can't be read"):
            await read(wrong)
        assert (await read(right)).ids[0] == expected(generation("right"))
        assert kernel.worker()["restarts"] == 0


@pytest.mark.parametrize("fault", ["rubbish_once", "deaf_once"])
async def test_a_worker_that_breaks_the_protocol_is_replaced(home: Path, tmp_path: Path, fault: str) -> None:
    request = generation("rubbish")
    async with kernel_on(home, {fault: str(tmp_path / "said")}) as kernel:
        await kernel.resolve("toy")
        first = kernel.worker()["pid"]
        assert (await ask(kernel, request)).ids[0] == expected(request)
        assert kernel.worker()["restarts"] == 1
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
