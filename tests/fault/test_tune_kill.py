"""Tuning jobs in their own processes, killed with -9 and stopped with their daemon: the weights are those of a job that
was left alone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kelm.clock import SYSTEM
from kelm.config import load_settings
from kelm.kernel.job import BackgroundJob
from kelm.kernel.jobs import Jobs
from kelm.kernel.pids import Pids
from kelm.store import Store
from kelm.tune.job import run
from tune_kit import context, intents, make_store, spec, weights_digest

EPOCHS = 12
DATA = intents(60)

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's and transformers' own, of one another


@asynccontextmanager
async def daemon(store: Store) -> AsyncIterator[Jobs]:
    settings = load_settings({"home": store.home.root, "job_threads": 1, "job_memory": "1GiB"}, {})
    pids = Pids(settings.home)
    jobs = Jobs(settings, pids.draw, SYSTEM)
    pids.at_least(await jobs.start())
    try:
        yield jobs
    finally:
        await jobs.stop()


async def until(job: BackgroundJob, folder: Path, condition: str) -> None:
    """Until its log has ``condition``, or it has ended."""
    deadline = SYSTEM.monotonic_s() + 100
    while condition not in (folder / "log.txt").read_text() and not job.record.finished:
        assert SYSTEM.monotonic_s() < deadline, (folder / "log.txt").read_text()
        await asyncio.sleep(0.01)


@pytest.mark.timeout(300)  # what runs below everything else waits for everything else
async def test_killed_and_stopped_it_ends_with_the_weights_of_one_left_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    run(spec("emb", "x.csv", variant="alone", epochs=EPOCHS), context(store, DATA, pid=900))
    async with daemon(store) as jobs:
        torn = await jobs.submit(spec("emb", "x.csv", variant="torn", epochs=EPOCHS), DATA)
        folder = store.home.root / "jobs" / str(torn.pid)
        await until(torn, folder, "epoch 2:")
        assert torn.child is not None, (folder / "log.txt").read_text()
        os.kill(torn.child.os_pid, signal.SIGKILL)
        await until(torn, folder, "epoch 5:")
    assert torn.record.state == "queued" and torn.saved.deaths == 1
    async with daemon(store) as jobs:
        torn = jobs.get(torn.pid)
        await until(torn, folder, "published")
        while not torn.record.finished:
            await asyncio.sleep(0.01)
    said = (folder / "log.txt").read_text()
    assert torn.record.state == "done" and said.count("goes on from step") == 2, said
    assert weights_digest(store, "emb@torn") == weights_digest(store, "emb@alone")
    assert len(store.history("emb@torn").versions) == 1
