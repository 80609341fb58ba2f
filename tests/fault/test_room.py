"""Models that make room for another: who goes, who stays, who waits, and what each of them is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel_kit import Answer, generation, kernel_on, make_home, read, sample, until, write_model
from scripted_worker import next_token

from kelm import limits
from kelm.clock import SYSTEM
from kelm.errors import Cancelled, ModelNotFound, NotFound, OutOfMemory
from kelm.kernel.kernel import Kernel
from kelm.kernel.keys import Keys
from kelm.kernel.process import Process
from kelm.kernel.requests import Encoding, Generation, Origin
from kelm.kernel.room import Room
from kelm.sched.eviction import Resident
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta
from kelm.wire.framing import encode
from kelm.wire.messages import Loaded

SIZES = {"one": 60, "two": 60, "three": 60, "small": 20, "huge": 101}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("room"), *SIZES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_BACKOFF_S", replace(limits.RESTART_BACKOFF_S, default=0.01))


@asynccontextmanager
async def house(home: Path, **script: Any) -> AsyncIterator[Kernel]:
    """Room for 100: one of one and two, and small."""
    async with kernel_on(home, {"budget": 100, "sizes": SIZES, "step_s": 0.002, **script}) as kernel:
        yield kernel


def resident(kernel: Kernel) -> set[str]:
    return {row["name"].removesuffix(":latest") for row in kernel.resident() if row["state"] == "resident"}


def origin(model: str, **more: Any) -> Origin:
    return Origin(request_id=f"req-{model}", model=model, task="generate", **more)


def latest(kernel: Kernel) -> dict[str, Any]:
    """Why the newest process is where it is."""
    return kernel.why(max(row["pid"] for row in kernel.processes()))


async def enter(kernel: Kernel, request: Generation) -> Process:
    """As a door does it."""
    with await kernel.enter(origin(request.model, tenant=request.tenant)) as arrival:
        return kernel.submit(Generation(**{**request_fields(request), "pid": arrival.pid}))


def request_fields(request: Generation) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


async def ask(kernel: Kernel, request: Generation) -> Answer:
    return await read(await enter(kernel, request))


def expected(request: Generation) -> list[int]:
    tokens: list[int] = []
    for _ in range(request.sampling.max_tokens):
        before = tokens[-1] if tokens else request.prompt[-1]
        tokens.append(next_token(request.sampling.seed, 0, len(request.prompt) + len(tokens), before, 256))
    return tokens


async def test_one_is_evicted_for_another_and_brought_back_by_the_next_request(home: Path) -> None:
    async with house(home) as kernel:
        for model in ("one", "two", "one", "two"):
            request = generation("hello", model=model, max_tokens=5)
            assert (await ask(kernel, request)).ids[0] == expected(request)
            assert resident(kernel) == {model}
        assert sample(kernel, "kelm_model_evictions_total", model_name="one:latest") == 2
        assert sample(kernel, "kelm_model_loads_total", model_name="two:latest") == 2


async def test_the_least_recently_used_goes_and_no_more_than_needed(home: Path) -> None:
    async with house(home) as kernel:
        for model in ("small", "one", "small"):
            await ask(kernel, generation("hello", model=model, max_tokens=2))
        assert resident(kernel) == {"small", "one"}
        await ask(kernel, generation("hello", model="two", max_tokens=2))
        assert resident(kernel) == {"small", "two"}, "one was used longer ago"


async def test_a_model_in_use_is_never_evicted_and_its_stream_goes_on(home: Path) -> None:
    async with house(home) as kernel:
        long = generation("long", model="one", max_tokens=300)
        process = await enter(kernel, long)
        reading = asyncio.create_task(read(process))
        waiting = asyncio.create_task(ask(kernel, generation("hello", model="two", max_tokens=5)))
        await until(lambda: len(kernel.processes()) == 2 and "in use" in latest(kernel)["text"])
        row = latest(kernel)
        assert row["state"] == "queued" and row["waits_for"] == "model"
        assert "waits for model two:latest: waiting for memory that is in use: one:latest" in row["text"]
        assert resident(kernel) == {"one"}
        assert (await reading).ids[0] == expected(long)
        assert (await waiting).ids[0] == expected(generation("hello", model="two", max_tokens=5))
        assert resident(kernel) == {"two"}


async def test_a_wait_for_memory_in_use_has_an_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOM_WAIT_S", replace(limits.ROOM_WAIT_S, default=0.2))
    async with house(home) as kernel:
        process = await enter(kernel, generation("long", model="one", max_tokens=100_000 // 2))
        with pytest.raises(OutOfMemory, match=r"20 bytes are missing; waited 0 s for it; in use: one:latest"):
            await ask(kernel, generation("hello", model="two"))
        assert resident(kernel) == {"one"} and process.record.state == "running"


async def test_what_can_not_fit_is_refused_at_once_and_nobody_goes_for_it(home: Path) -> None:
    async with house(home) as kernel:
        for model in ("one", "small"):
            await ask(kernel, generation("hello", model=model, max_tokens=2))
        busy = await enter(kernel, generation("long", model="small", max_tokens=50_000))
        async with asyncio.timeout(2):
            with pytest.raises(OutOfMemory, match=r"needs 101 bytes: 81 bytes are missing; evicting every other model"):
                await ask(kernel, generation("hello", model="huge"))
        assert resident(kernel) == {"one", "small"} and busy.record.state == "running"
        assert sample(kernel, "kelm_model_evictions_total", model_name="one:latest") == 0


async def test_what_no_eviction_helps_evicts_nobody() -> None:
    """The KV arena is too small for it, say: a worker names no bytes that others could give."""

    class Shelf:
        def shelved(self) -> list[Resident]:
            return [Resident("idle", 50, 0.0)]

        def name_of(self, key: str) -> str:
            return key

        async def evict(self, key: str) -> None:
            raise AssertionError("evicted for nothing")

    async def attempt() -> Loaded:
        raise OutOfMemory("the KV arena has 1 slab")

    said: list[str] = []
    with pytest.raises(OutOfMemory, match=r"^the KV arena has 1 slab$"):
        await Room(Shelf(), SYSTEM).load(attempt, said.append)
    assert said == ["loading"]


async def test_many_at_once_for_two_models_that_do_not_fit_together_are_all_answered(home: Path) -> None:
    async with house(home) as kernel:
        requests = [generation(f"{n}", model=("one", "two")[n % 2], seed=n, max_tokens=10) for n in range(16)]
        answers = await asyncio.gather(*(ask(kernel, request) for request in requests))
        assert [answer.ids[0] for answer in answers] == [expected(request) for request in requests]
        assert kernel.processes() == []


async def test_those_who_wait_for_a_model_have_a_pid_and_are_told_how_far_it_is(home: Path) -> None:
    async with house(home, load_s=0.4) as kernel:
        await ask(kernel, generation("hello", model="one", max_tokens=2))
        asking = asyncio.create_task(ask(kernel, generation("hello", model="two", max_tokens=2)))
        texts = []
        while not asking.done():
            if kernel.processes():
                row = latest(kernel)
                texts.append(row["text"])
                if row["waits_for"] == "model":
                    assert row["state"] == "queued" and kernel.processes()[0]["pid"] == row["pid"]
            await asyncio.sleep(0.01)
        await asking
        assert any("evicting one:latest" in text for text in texts)
        assert any("loading 50%" in text for text in texts)


async def test_a_place_is_given_up_when_nothing_comes_of_it(home: Path) -> None:
    async with house(home, load_s=0.3) as kernel:
        with pytest.raises(ModelNotFound):
            await kernel.enter(origin("nothere"))
        assert kernel.processes() == []
        gone = asyncio.create_task(kernel.enter(origin("one")))
        await until(kernel.processes)
        gone.cancel()  # its client went away
        await asyncio.gather(gone, return_exceptions=True)
        assert kernel.processes() == []
        with await kernel.enter(origin("one")) as arrival:
            assert kernel.processes()[0]["state"] == "queued"
        with pytest.raises(NotFound):
            kernel.why(arrival.pid)


async def test_one_that_waits_can_be_ended_and_reniced(home: Path) -> None:
    async with house(home, load_s=0.3) as kernel:
        waiting = asyncio.create_task(kernel.enter(origin("one")))
        await until(kernel.processes)
        pid = kernel.processes()[0]["pid"]
        kernel._job(pid).fail(Cancelled("by an operator"))
        with pytest.raises(Cancelled, match="by an operator"):
            await waiting
        asking = asyncio.create_task(enter(kernel, generation("hello", model="one", max_tokens=500)))
        await until(kernel.processes)
        kernel.nice(pid + 1, 7)
        process = await asking
        assert process.pid == pid + 1 and process.record.priority == 7


async def test_what_was_loaded_for_a_request_is_not_evicted_before_it_runs(home: Path) -> None:
    async with house(home) as kernel:
        with await kernel.enter(origin("one")) as arrival:
            other = asyncio.create_task(ask(kernel, generation("hello", model="two", max_tokens=2)))
            await until(lambda: len(kernel.processes()) == 2 and "in use" in latest(kernel)["text"])
            process = kernel.submit(generation("hello", model="one", max_tokens=3))  # not by its pid, by its name
            assert (await read(process)).ends == {0: "length"} and arrival.model.name == "one:latest"
        await other


async def test_a_worker_that_dies_brings_its_models_back_before_others_take_their_room(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESTART_BACKOFF_S", replace(limits.RESTART_BACKOFF_S, default=0.5))
    async with house(home, load_s=0.1) as kernel:
        long = generation("long", model="one", max_tokens=200)
        reading = asyncio.create_task(read(await enter(kernel, long)))
        waiting = asyncio.create_task(ask(kernel, generation("hello", model="two", max_tokens=5)))
        await until(lambda: len(kernel.processes()) == 2 and "in use" in latest(kernel)["text"])
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        await until(lambda: kernel.worker()["restarts"] == 1)
        between = asyncio.create_task(ask(kernel, generation("hi", model="three", max_tokens=5)))
        await until(lambda: len(kernel.processes()) == 3 and "loading" in latest(kernel)["text"])
        assert kernel.worker()["state"] != "up"
        assert (await reading).ids[0] == expected(long)
        await asyncio.gather(waiting, between)


async def test_priorities_and_counters_are_handed_back_after_a_restart(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the worker hears of tenants as numbers only."""
    log, tenant, said = tmp_path / "log", "tenant-whose-name-is-secret", bytearray()
    Keys(home).create(tenant, 3)
    async with house(home, log=str(log)) as kernel:
        send = kernel._supervisor.send
        monkeypatch.setattr(kernel._supervisor, "send", lambda command: (said.extend(encode(command)), send(command)))
        await kernel.resolve("one")
        fields = request_fields(generation("a", model="one", max_tokens=400))
        process = kernel.submit(Generation(**{**fields, "priority": -4, "tenant": tenant}))
        embedded = Encoding(request_id="r", model="one", task="embed", inputs=[[1]], tenant=tenant)
        reading = asyncio.create_task(read(process))
        await kernel.encode(embedded)
        kernel.nice(process.pid, 5)
        await until(lambda: f"Renice {process.pid} 5" in log.read_text())
        process.record.standing.share = replace(process.record.standing.share, counter=123.5)
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        await reading
    stands = [line for line in log.read_text().splitlines() if line.startswith("Stand")]
    assert stands == [f"Stand {process.pid} -4 0 3 0.0", f"Stand {process.pid} 5 0 3 123.5"]
    assert b"Submit" in said and b"Encode" in said and tenant.encode() not in said


def add_variant(home: Path, folder: Path) -> None:
    """one@x: a tensor of one, changed."""
    store = Store(home, packaged=home / "none")
    base = store.resolve("one")
    old = dict(Tensors(store.paths(base)))
    new = {**old, "model.norm.weight": old["model.norm.weight"] * 2}
    write_delta(folder / "delta", base.digest, old, new)
    store.add_version("one", "x", layer=folder / "delta", parent=0, publish=True)


async def test_a_variant_is_evicted_before_its_base_which_stays_when_it_is_asked_for_meanwhile(tmp_path: Path) -> None:
    home, log = make_home(tmp_path, "one", "two"), tmp_path / "log"
    add_variant(home, tmp_path)
    sizes = {"one:latest@x": 15, "one": 60, "two": 60}

    def unloaded() -> list[str]:
        lines = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("Unload ")]
        return [line.partition("@sha256")[0] for line in lines]

    async with kernel_on(home, {"budget": 100, "sizes": sizes, "load_s": 0.2, "log": str(log)}) as kernel:
        await ask(kernel, generation("hello", model="one@x", max_tokens=2))
        two = asyncio.create_task(ask(kernel, generation("hello", model="two", max_tokens=5)))
        await until(unloaded)
        request = generation("long", model="one", max_tokens=100)
        assert (await ask(kernel, request)).ids[0] == expected(request)
        await two
        assert [name.partition(":")[0] + name.partition("@")[1] for name in unloaded()] == ["one@", "one"]


async def test_a_variant_that_does_not_fit_beside_its_own_base_is_refused_at_once(tmp_path: Path) -> None:
    home = make_home(tmp_path, "one", "two")
    add_variant(home, tmp_path)
    sizes = {"one:latest@x": 50, "one": 60, "two": 30}
    async with kernel_on(home, {"budget": 100, "sizes": sizes}) as kernel:
        await ask(kernel, generation("hello", model="two", max_tokens=2))
        async with asyncio.timeout(5):
            with pytest.raises(OutOfMemory, match="evicting every other model would not be enough"):
                await ask(kernel, generation("hello", model="one@x", max_tokens=2))
        assert resident(kernel) == {"one", "two"}


async def test_an_evicted_model_that_changed_on_disk_comes_back_as_it_is_now(tmp_path: Path) -> None:
    home = make_home(tmp_path, "one", "two")
    async with house(home) as kernel:
        old = await kernel.resolve("one")
        await kernel.resolve("two")
        Store(home, packaged=home / "none").import_folder(write_model(tmp_path / "changed", seed=9), "one")
        new = await kernel.resolve("one")
        assert new.key != old.key and resident(kernel) == {"one"}
