"""A compression's process is killed in the middle, and so is its daemon: the model comes, whole and once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from compress_kit import make_home
from kelm.clock import SYSTEM
from kelm.config import load_settings
from kelm.kernel.job import BackgroundJob
from kelm.kernel.jobs import Jobs
from kelm.kernel.pids import Pids
from kelm.store import Store
from kelm.wire.jobs import Compress

SPEC = Compress(model="tiny", name="tiny:int4", bits=4, file="rows.jsonl")
DATA = b'{"text": "The quick brown fox jumps over the lazy dog. It is, is it?"}\n' * 200


@asynccontextmanager
async def daemon(home: Path) -> AsyncIterator[Jobs]:
    """The jobs' part of one, with the real process of a job."""
    settings = load_settings({"home": home, "job_threads": 1, "job_memory": "256MiB", "dtype": "float32"}, {})
    pids = Pids(home)
    jobs = Jobs(settings, pids.draw, SYSTEM)
    pids.at_least(await jobs.start())
    try:
        yield jobs
    finally:
        await jobs.stop()
        pids.give_back()


async def until(job: BackgroundJob, condition: Any) -> None:
    deadline = SYSTEM.monotonic_s() + 90
    while not condition():
        assert SYSTEM.monotonic_s() < deadline, job.row()
        await asyncio.sleep(0.01)


def at_work(job: BackgroundJob) -> bool:
    """In the middle of its function."""
    progress = job.saved.progress
    return job.child is not None and progress is not None and 10 <= progress.done < 40


def names(home: Path) -> list[str]:
    return [str(name) for name in Store(home).names() if name.model == "tiny"]


async def test_killed_in_the_middle_and_taken_up(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    async with daemon(home) as jobs:
        job = await jobs.submit(SPEC, DATA)
        await until(job, lambda: at_work(job))
        assert job.child is not None and names(home) == ["tiny:latest"]
        os.kill(job.child.os_pid, signal.SIGKILL)
        await until(job, lambda: job.record.finished)
        row = job.row()
        assert (row["state"], row["deaths"]) == ("done", 1), row
        assert row["result"]["model"] == "tiny:int4" and names(home) == ["tiny:int4", "tiny:latest"]
        assert row["result"]["digest"] == Store(home).resolve("tiny:int4").digest
        assert row["result"]["compression"]["before"]["perplexity"] > 1
        assert list((home / "blobs" / ".staging").iterdir()) == []
        work = home / "jobs" / str(job.pid) / "compress"
        await until(job, lambda: not work.exists())


async def test_the_daemon_ends_and_the_next_one_takes_it_up(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    async with daemon(home) as jobs:
        job = await jobs.submit(SPEC, DATA)
        await until(job, lambda: at_work(job))
    assert names(home) == ["tiny:latest"]
    async with daemon(home) as jobs:
        job = jobs.get(job.pid)
        await until(job, lambda: job.record.finished)
        assert job.row()["state"] == "done" and names(home) == ["tiny:int4", "tiny:latest"]


@pytest.mark.parametrize("kind", ["cancelled", "failed"])
async def test_a_job_that_ends_without_a_model_leaves_nothing(kind: str, tmp_path: Path) -> None:
    home = make_home(tmp_path)
    async with daemon(home) as jobs:
        wrong = Compress(model="tiny", name="tiny:int4", bits=4, group=64, file="rows.jsonl")
        job = await jobs.submit(SPEC if kind == "cancelled" else wrong, DATA)
        if kind == "cancelled":
            await until(job, lambda: at_work(job))
            assert await jobs.cancel(job.pid) == "cancelled"
        await until(job, lambda: job.record.finished)
        row = job.row()
        assert row["state"] == kind and names(home) == ["tiny:latest"]
        if kind == "failed":
            assert row["error"]["code"] == "invalid_value" and "--group 64 does not divide" in row["error"]["message"]
