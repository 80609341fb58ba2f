"""Variants in a running kernel: updated under open streams, rolled back, killed with their worker, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kernel_kit import Answer, generation, kernel_on, make_home, read, sample, until

from kelm import limits
from kelm.errors import Cancelled, ModelFormatError, ModelNotFound
from kelm.kernel.kernel import Kernel
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta

TENSORS = ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path, "toy")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_BACKOFF_S", replace(limits.RESTART_BACKOFF_S, default=0.01))
    monkeypatch.setattr(limits, "SUPERSEDED_S", replace(limits.SUPERSEDED_S, default=0.3))


def open_store(home: Path) -> Store:
    return Store(home, packaged=home / "none")


def update(home: Path, *, sparse: bool, seed: int, publish: bool = True) -> int:
    """A new version of toy@x over the base; its number."""
    store, rng = open_store(home), np.random.default_rng(seed)
    base = store.resolve("toy")
    old = dict(Tensors(store.paths(base)))
    new = dict(old)
    for name in TENSORS:
        change = rng.standard_normal(old[name].shape).astype(np.float32)
        new[name] = old[name] + (change * (rng.random(change.shape) < 0.1) if sparse else change / 2)
    path = home.parent / f"delta-{seed}"
    write_delta(path, base.digest, old, new)
    version = store.add_version("toy", "x", layer=path, parent=0, publish=publish)
    assert version.kind == ("sparse" if sparse else "dense")
    return version.number


async def answer(kernel: Kernel, model: str, tokens: int = 30) -> tuple[str, list[int]]:
    """Who answered, and what."""
    process = kernel.submit(generation("once", model=(await kernel.resolve(model)).name, max_tokens=tokens))
    return process.record.model, (await read(process)).ids[0]


async def begun(kernel: Kernel, model: str, tokens: int = 400) -> asyncio.Task[Answer]:
    """A stream of which some tokens have come; cancelling the task ends it."""
    resolved = await kernel.resolve(model)
    process = kernel.submit(generation("stream", model=resolved.name, max_tokens=tokens, temperature=0.8))
    reading = asyncio.create_task(read(process))
    reading.add_done_callback(lambda task: process.cancel())
    await until(lambda: process.usage.completion_tokens > 5)
    return reading


def resident(kernel: Kernel) -> list[str]:
    return [row["name"] for row in kernel.resident()]


async def test_streams_finish_on_their_version_while_others_get_the_next(home: Path) -> None:
    update(home, sparse=True, seed=1)
    async with kernel_on(home, None) as kernel:
        undisturbed = await (await begun(kernel, "toy@x"))
        base, first = await answer(kernel, "toy"), await answer(kernel, "toy@x")
        assert first[0] == "toy:latest@x:1" and first[1] != base[1]
        stream = await begun(kernel, "toy@x")
        assert update(home, sparse=False, seed=2) == 2
        second = await answer(kernel, "toy@x")
        assert second[0] == "toy:latest@x:2" and second[1] not in (base[1], first[1])
        assert not stream.done() and resident(kernel) == ["toy:latest@x:1", "toy:latest", "toy:latest@x:2"]
        assert await answer(kernel, "toy@x:1") == first, "a pinned version is still served"
        assert await stream == undisturbed, "the stream went on as if nothing had been"
        assert open_store(home).rollback("toy@x").current == 1
        assert await answer(kernel, "toy@x") == first
        assert await answer(kernel, "toy@x:2") == second
        assert await answer(kernel, "toy") == base
        row = next(row for row in kernel.resident() if row["name"] == "toy:latest@x:2")
        assert row["base"] == "toy:latest" and row["weight_bytes"] > 0 and row["shared_bytes"] > 0
        assert sample(kernel, "vllm:e2e_request_latency_seconds_count", model_name="toy:latest@x") == 7


async def test_versions_that_no_name_means_leave_and_the_base_stays_under_the_last(home: Path) -> None:
    update(home, sparse=True, seed=1)
    async with kernel_on(home, None, executor="torch") as kernel:  # slow enough to outlast two updates
        stream = await begun(kernel, "toy@x", tokens=4000)
        for number in (2, 3):
            update(home, sparse=True, seed=number)
            await answer(kernel, "toy@x")
        await until(lambda: resident(kernel) == ["toy:latest@x:1", "toy:latest", "toy:latest@x:3"])
        stream.cancel()
        await until(lambda: resident(kernel) == ["toy:latest", "toy:latest@x:3"])
        await asyncio.sleep(0.8)
        assert resident(kernel) == ["toy:latest", "toy:latest@x:3"], "nobody asked for toy, but toy@x lies on it"
        assert await kernel.unload("toy@x") == ["toy:latest@x:3"]
        await until(lambda: resident(kernel) == [])


async def test_a_request_that_was_given_a_version_gets_it(home: Path) -> None:
    """Between a door's two questions (which model? go!) the version may be superseded."""
    update(home, sparse=True, seed=1)
    async with kernel_on(home, None) as kernel:
        first = await answer(kernel, "toy@x")
        given = await kernel.resolve("toy@x")
        update(home, sparse=False, seed=2)
        await answer(kernel, "toy@x")
        process = kernel.submit(generation("once", model=given.name, max_tokens=30))
        assert (process.record.model, (await read(process)).ids[0]) == first


async def test_a_killed_worker_comes_back_with_bases_before_variants(home: Path) -> None:
    update(home, sparse=False, seed=1)
    async with kernel_on(home, None) as kernel:
        undisturbed = await (await begun(kernel, "toy@x"))
        stream = await begun(kernel, "toy@x")
        assert resident(kernel)[0] == "toy:latest@x:1", "the variant's row is older than its base's"
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        await until(lambda: kernel.worker()["restarts"] == 1)
        assert await stream == undisturbed
        assert set(resident(kernel)) == {"toy:latest", "toy:latest@x:1"}


async def test_stopping_the_base_ends_its_variants_too(home: Path) -> None:
    update(home, sparse=True, seed=1)
    async with kernel_on(home, None) as kernel:
        await kernel.resolve("toy")
        streams = [await begun(kernel, name, tokens=3000) for name in ("toy@x", "toy")]
        assert await kernel.unload("toy") == ["toy:latest@x:1", "toy:latest"]
        for stream, name in zip(streams, ("toy:latest@x:1", "toy:latest"), strict=True):
            with pytest.raises(Cancelled, match=f"the model {name} was unloaded"):
                await stream
        assert resident(kernel) == []
        with pytest.raises(ModelNotFound, match="not loaded"):
            await kernel.unload("toy@x")
        assert (await answer(kernel, "toy@x"))[0] == "toy:latest@x:1", "asked for again, both come back"


async def test_a_stop_names_one_version_or_all(home: Path) -> None:
    for number in (1, 2):
        update(home, sparse=True, seed=number)
    async with kernel_on(home, None) as kernel:
        for name in ("toy@x:1", "toy@x:2"):
            await kernel.resolve(name)
        assert await kernel.unload("toy@x:1") == ["toy:latest@x:1"]
        await kernel.resolve("toy@x:1")
        assert sorted(await kernel.unload("toy@x")) == ["toy:latest@x:1", "toy:latest@x:2"]


async def test_a_base_that_does_not_come_back_takes_its_variants(home: Path, tmp_path: Path) -> None:
    update(home, sparse=True, seed=1)
    log = tmp_path / "log"
    async with kernel_on(home, {"log": str(log)}) as kernel:
        model = await kernel.resolve("toy@x")
        assert model.base is not None and model.base.startswith("toy:latest@sha256:")
        process = kernel.submit(generation("one", model=model.name, max_tokens=90_000))
        kernel._supervisor._command = (*kernel._supervisor._command[:-1], '{"refuse": "toy:latest@sha256"}')
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        with pytest.raises(ModelFormatError):
            await read(process)
        assert resident(kernel) == []


async def test_a_variant_that_can_not_be_loaded_is_an_error_of_its_own(home: Path, tmp_path: Path) -> None:
    """A tensor that the config doesn't know: the store can't tell, the loader does."""
    store = open_store(home)
    config = tmp_path / "config.json"
    config.write_bytes(Path(store.paths(store.resolve("toy"))["config.json"]).read_bytes() + b" ")
    write_delta(tmp_path / "d", store.resolve("toy").digest, {}, {"model.nowhere.weight": np.ones(3, np.float32)})
    store.add_version("toy", "x", layer=tmp_path / "d", overrides={"config.json": config})
    async with kernel_on(home, None) as kernel:
        with pytest.raises(
            ModelFormatError, match=r"layer 1: delta\.safetensors: model\.nowhere\.weight is not part of"
        ):
            await kernel.resolve("toy@x")
        assert (await answer(kernel, "toy"))[0] == "toy:latest"
        assert resident(kernel) == ["toy:latest"]
