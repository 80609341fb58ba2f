"""The kernel and the real worker, with a small random llama: killed, stopped, abandoned, drained."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from kernel_kit import Answer, generation, kernel_on, make_home, read, sample, until, write_model

from kelm import limits
from kelm.clock import SYSTEM
from kelm.config import load_settings
from kelm.errors import ConfigError, Unavailable
from kelm.kernel import daemonfile
from kelm.kernel.kernel import Kernel, worker_command
from kelm.kernel.requests import Generation
from kelm.store import Store
from kelm.worker.command_line import parse

KILLS = 20
STREAMS = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that there is time to kill a worker in the middle of an answer."""
    return make_home(tmp_path_factory.mktemp("real"), "toy", hidden=256, layers=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_BACKOFF_S", replace(limits.RESTART_BACKOFF_S, default=0.01))


def streams(tokens: int) -> list[Generation]:
    """Greedy and sampled ones, one to three choices, penalties, prompts of 1 to about 120 tokens."""
    return [
        generation(
            "once upon a time " * (i % 8) + chr(97 + i),
            n=1 + i % 3,
            seed=1000 + i,
            max_tokens=tokens - 3 * i,
            temperature=0.0 if i % 4 == 0 else 0.9,
            repetition_penalty=1.1 if i % 5 == 0 else 1.0,
        )
        for i in range(STREAMS)
    ]


async def run(kernel: Kernel, requests: list[Generation]) -> list[asyncio.Task[Answer]]:
    await kernel.resolve("toy")
    return [asyncio.create_task(read(kernel.submit(request))) for request in requests]


def tokens_so_far(kernel: Kernel) -> int:
    return int(sample(kernel, "vllm:generation_tokens_total", model_name="toy:latest"))


@pytest.mark.timeout(600)  # 21 workers are started, each in about a second on a quiet machine
async def test_20_kills_with_16_streams_open_change_nothing(home: Path) -> None:
    requests = streams(tokens=220)
    async with kernel_on(home, None) as kernel:
        undisturbed = await asyncio.gather(*await run(kernel, requests))
        total = tokens_so_far(kernel)
    chance = random.Random(20)
    moments = sorted(chance.uniform(0.02, 0.75) * total for _ in range(14))
    doubled = set(chance.sample(range(14), KILLS - 14))
    async with kernel_on(home, None) as kernel:
        reading = await run(kernel, requests)
        for number, (moment, due) in enumerate(pairwise([*moments, 0.8 * total])):
            await until(lambda moment=moment: tokens_so_far(kernel) >= moment)
            await until(lambda: kernel.worker()["state"] == "up")
            await kill(kernel)
            if number in doubled:  # while the next one starts, loads or replays, and in time for the kills to come
                late = time.monotonic() + chance.uniform(0.0, 1.2)
                await until(lambda late=late, due=due: time.monotonic() >= late or tokens_so_far(kernel) >= due)
                await kill(kernel)
            assert len(kernel.processes()) == STREAMS
        answers = await asyncio.gather(*reading)
        assert kernel.worker()["restarts"] >= 14
    for before, after in zip(undisturbed, answers, strict=True):
        assert after.ids == before.ids
        assert after.texts == before.texts
        assert after.ends == before.ends


async def kill(kernel: Kernel) -> None:
    await until(lambda: kernel.worker()["pid"] is not None)
    killed = kernel.worker()["pid"]
    os.kill(killed, signal.SIGKILL)
    await until(lambda: kernel.worker()["pid"] != killed)


async def test_200_clients_dropped_at_every_phase_give_their_blocks_back(home: Path) -> None:
    async with kernel_on(home, None, max_num_seqs=4, step_tokens=32, max_queued=1000) as kernel:
        await asyncio.gather(*await run(kernel, [generation("warm")]))
        await until(lambda: sample(kernel, "kelm_kv_blocks_free") == sample(kernel, "kelm_kv_blocks_total"))

        async def drop(number: int) -> None:
            process = kernel.submit(
                generation("x" * (1 + number % 7 * 50), n=1 + number % 3, max_tokens=1 + number % 50)
            )
            phase = number % 5
            if phase == 1:  # anywhere between queued and done
                await asyncio.sleep(number * 0.003)
            elif phase >= 2:  # after so many chunks, all of them for the last
                chunks = 0
                async for _ in process:
                    chunks += 1
                    if phase < 4 and chunks == phase:
                        break
            process.cancel()

        await asyncio.gather(*(drop(number) for number in range(200)))
        assert kernel.processes() == []
        await until(lambda: sample(kernel, "kelm_kv_blocks_free") == sample(kernel, "kelm_kv_blocks_total"))


async def test_a_stopped_worker_is_found_hung_and_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = streams(tokens=120)[:4]
    async with kernel_on(home, None) as kernel:
        undisturbed = await asyncio.gather(*await run(kernel, requests))
        reading = await run(kernel, requests)
        await until(lambda: any(row["generated_tokens"] > 5 for row in kernel.processes()))
        os.kill(kernel.worker()["pid"], signal.SIGSTOP)
        monkeypatch.setattr(limits, "WORKER_HANG_S", replace(limits.WORKER_HANG_S, default=0.3))
        await until(lambda: kernel.worker()["restarts"] == 1)
        monkeypatch.setattr(limits, "WORKER_HANG_S", replace(limits.WORKER_HANG_S, default=60))
        for before, task in zip(undisturbed, reading, strict=True):
            assert (await task).ids == before.ids


async def test_drain_finishes_what_it_can_and_leaves_no_process(home: Path) -> None:
    async with kernel_on(home, None) as kernel:
        short, long = await run(kernel, [generation("short", max_tokens=10), generation("long", max_tokens=4000)])
        await asyncio.sleep(0)
        worker_pid = kernel.worker()["pid"]
        await kernel.drain(1.0)
        assert (await short).ends == {0: "length"}
        with pytest.raises(Unavailable):
            await long
        with pytest.raises(ProcessLookupError):
            os.kill(worker_pid, 0)


async def test_a_killed_daemon_leaves_no_worker(home: Path) -> None:
    script = """
        import asyncio, sys
        from pathlib import Path
        sys.path[:0] = {paths!r}
        from kernel_kit import generation, kernel_on

        async def main():
            async with kernel_on(Path({home!r}), None) as kernel:
                await kernel.resolve("toy")
                kernel.submit(generation("busy", max_tokens=4000))
                print(kernel.worker()["pid"], flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    code = textwrap.dedent(script.format(paths=sys.path, home=str(home)))
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    worker_pid = int(await asyncio.to_thread(daemon.stdout.readline))
    os.kill(worker_pid, 0)
    daemon.kill()
    daemon.stdout.close()
    await asyncio.to_thread(daemon.wait)
    await until(lambda: not _alive(worker_pid))
    async with kernel_on(home, None) as kernel:  # its lock went with it
        assert kernel.worker()["state"] == "up"


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def test_ready_means_that_a_step_was_run_by_the_worker_that_is_up(home: Path) -> None:
    async with kernel_on(home, None) as kernel:
        await kernel.resolve("toy")
        await until(lambda: kernel.ready)
        assert sample(kernel, "kelm_steps_total", executor="native") == 1
        os.kill(kernel.worker()["pid"], signal.SIGKILL)
        await until(lambda: not kernel.ready)
        await until(lambda: kernel.ready)
        assert sample(kernel, "kelm_steps_total", executor="native") == 2


async def test_the_worker_reads_the_command_line_that_the_kernel_writes(home: Path) -> None:
    settings = load_settings(
        {"home": str(home), "memory": "64MiB", "threads": 3, "max_num_seqs": 5, "step_tokens": 99}, {}
    )
    python, dash_m, module, *flags = worker_command(settings)
    assert (python, dash_m, module) == (sys.executable, "-m", "kelm.worker")
    descriptor, engine = parse([*flags, "7"])
    assert (descriptor, engine.memory_bytes, engine.threads) == (7, 64 << 20, 3)
    assert (engine.max_num_seqs, engine.step_tokens) == (5, 99)


async def test_a_started_kernel_has_the_home(home: Path) -> None:
    settings = load_settings({"home": str(home), "memory": "64MiB", "threads": 1}, {})
    kernel, second = (Kernel(settings, Store(home), SYSTEM) for _ in range(2))
    await kernel.start()
    try:
        with pytest.raises(ConfigError, match="in use by the daemon with pid"):
            await second.start()
        owner = daemonfile.owner(home)
        assert owner is not None and owner.address == "http://127.0.0.1:8420"
    finally:
        await kernel.drain(0)
    assert daemonfile.owner(home) is None


async def test_the_smallest_model_of_the_package_is_warm_from_the_start(tmp_path: Path) -> None:
    package = tmp_path / "package"
    for name, hidden in (("large", 64), ("small", 32)):
        write_model(package / name, hidden=hidden)
    settings = load_settings({"home": str(tmp_path / "home"), "memory": "64MiB", "threads": 1}, {})
    kernel = Kernel(settings, Store(settings.home, packaged=package), SYSTEM)
    await kernel.start()
    try:
        await until(lambda: kernel.ready and kernel.resident())
        assert [row["name"] for row in kernel.resident()] == ["small:latest"]
        assert sample(kernel, "kelm_steps_total", executor="native") == 1
    finally:
        await kernel.drain(0)
