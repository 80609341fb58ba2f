"""Jobs: a bounded number at a time, each in a process that may be killed at any moment, none lost and none twice."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kelm import limits
from kelm.clock import SYSTEM
from kelm.config import Settings, load_settings
from kelm.errors import NotFound, Overloaded, StoreError, Unavailable
from kelm.kernel import job_files
from kelm.kernel.job import BackgroundJob
from kelm.kernel.jobs import Jobs
from kelm.kernel.pids import Pids
from kelm.wire.jobs import Tune

COMMAND = (sys.executable, str(Path(__file__).with_name("scripted_job.py")))
SPEC = Tune(base="toy:latest", variant="v", file="rows.csv")


def settings_of(home: Path) -> Settings:
    return load_settings({"home": home, "job_threads": 1, "job_memory": "256MiB"}, {})


@asynccontextmanager
async def daemon(home: Path) -> AsyncIterator[Jobs]:
    """The jobs' part of one, ended in order."""
    pids = Pids(home)
    jobs = Jobs(settings_of(home), pids.draw, SYSTEM, COMMAND)
    pids.at_least(await jobs.start())
    try:
        yield jobs
    finally:
        await jobs.stop()
        pids.give_back()


async def submit(jobs: Jobs, **script: Any) -> BackgroundJob:
    return await jobs.submit(SPEC, json.dumps({"steps": 3, **script}).encode())


async def until(condition: Any, seconds: float = 30) -> None:
    deadline = SYSTEM.monotonic_s() + seconds
    while not condition():
        assert SYSTEM.monotonic_s() < deadline, "not in time"
        await asyncio.sleep(0.01)


async def ended(job: BackgroundJob) -> dict[str, Any]:
    await until(lambda: job.record.finished)
    return job.row()


def folder(home: Path, job: BackgroundJob) -> Path:
    return home / "jobs" / str(job.pid)


async def running(home: Path, job: BackgroundJob) -> int:
    """Its function is at work; the OS pid."""
    await until(lambda: (folder(home, job) / "starts").exists() and job.child is not None)
    assert job.child is not None
    return job.child.os_pid


def bound(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    monkeypatch.setattr(limits, name, dataclasses.replace(getattr(limits, name), default=value))


async def test_a_job_from_its_door_to_its_end(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        row = await ended(await submit(jobs))
        assert row["state"] == "done" and row["result"] == {"steps": 3, "starts": 1, "threads": "1"}
        assert row["progress"] == {"done": 3, "total": 3, "note": "step", "figures": {"loss": 1 / 3}}
        assert row["kind"] == "tune" and row["spec"]["variant"] == "v" and row["deaths"] == 0
        text = await jobs.read_log(row["pid"], 0)
        said = [line.partition(" ")[2] for line in text["text"].splitlines()]
        assert said == ["start 1", "step 1", "step 2", "step 3"]
        assert await jobs.read_log(row["pid"], text["next"]) == {"text": "", "next": text["next"], "state": "done"}
        assert jobs.rows(ended=False) == [] and len(jobs.rows(ended=True)) == 1
        data = tmp_path / "jobs" / str(row["pid"]) / "data"
        await until(lambda: not data.exists())  # what only a resumed job needs is dropped
        with pytest.raises(NotFound, match="kelm ps --all"):
            jobs.get(99)


async def test_its_process_is_below_everything_else(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        job = await submit(jobs, wait="never")
        pid = await running(tmp_path, job)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) > 500, "the serving worker has 500"
        assert await jobs.cancel(job.pid) == "cancelled"


async def test_killed_again_and_again_it_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        row = await ended(await submit(jobs, steps=4, die_at=[2, 3]))
        assert row["state"] == "done" and row["result"]["starts"] == 3 and row["deaths"] == 2
        text = (await jobs.read_log(row["pid"], 0))["text"]
        assert [text.count(f"step {number}") for number in (1, 2, 3, 4)] == [1, 1, 1, 1], "no step is done twice"


async def test_a_job_that_always_dies_is_failed_with_the_reason(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        row = await ended(await submit(jobs, die_at=[1] * 10))
        assert row["state"] == "failed" and row["deaths"] == limits.JOB_DEATHS.value
        message = row["error"]["message"]
        assert "died 3 times" in message and "signal 9" in message and f"kelm logs {row['pid']}" in message


async def test_a_job_that_cannot_be_done_says_why_and_is_not_tried_again(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        row = await ended(await submit(jobs, fail_at=1))
        assert row["state"] == "failed" and row["error"]["code"] == "invalid_value" and row["deaths"] == 0
        assert "row 3 lacks label" in row["error"]["message"]
        broken = await ended(await submit(jobs, break_at=1))
        assert "ZeroDivisionError" in broken["error"]["message"] and "inside" not in broken["error"]["message"]
        assert "an inside of ours" in (await jobs.read_log(broken["pid"], 0))["text"], "the log has the trace"


async def test_memory_beyond_its_share_is_an_error_of_its_own(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        row = await ended(await submit(jobs, take_bytes=2 << 30))
        assert row["error"]["code"] == "out_of_memory" and "KELM_JOB_MEMORY" in row["error"]["message"]


async def test_one_at_a_time_in_order_and_a_bounded_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, "JOBS_QUEUED", 2)
    async with daemon(tmp_path) as jobs:
        first = await submit(jobs, wait="go")
        await running(tmp_path, first)
        second, third = await submit(jobs), await submit(jobs)
        with pytest.raises(Overloaded, match="2 jobs wait already"):
            await submit(jobs)
        assert [job.record.state for job in (first, second, third)] == ["running", "queued", "queued"]
        why = [jobs.why(job.pid) for job in (first, second, third)]
        assert [row["waits_for"] for row in why] == [None, "job", "job"]
        assert [row["ahead"] for row in why] == [0, 1, 2] and "2 are ahead of it" in why[2]["text"]
        assert await jobs.cancel(second.pid) == "cancelled"
        (folder(tmp_path, first) / "go").touch()
        assert (await ended(first))["state"] == (await ended(third))["state"] == "done"
        assert not (folder(tmp_path, second) / "starts").exists(), "a job cancelled in the queue never began"
        assert await jobs.cancel(first.pid) == "done", "an end is final"


async def test_why_a_job_failed(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        job = await submit(jobs, fail_at=1)
        await ended(job)
        assert "add one" in jobs.why(job.pid)["text"]
        with pytest.raises(NotFound):
            jobs.why(job.pid + 1)


async def test_cancelled_while_it_runs(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        job = await submit(jobs, wait="never")
        pid = await running(tmp_path, job)
        assert await jobs.cancel(job.pid) == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    async with daemon(tmp_path) as jobs:
        assert jobs.get(job.pid).record.state == "cancelled", "it is not taken up again"


async def test_a_job_deaf_to_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, "JOB_STOP_S", 0.2)
    async with daemon(tmp_path) as jobs:
        job = await submit(jobs, wait="never")
        os.kill(await running(tmp_path, job), signal.SIGSTOP)
        assert await jobs.cancel(job.pid) == "cancelled"


async def test_the_next_daemon_takes_up_what_was_running_and_what_waited(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        first, second = await submit(jobs, wait="go"), await submit(jobs)
        await running(tmp_path, first)
    (folder(tmp_path, first) / "go").touch()
    async with daemon(tmp_path) as jobs:
        one, two = jobs.get(first.pid), jobs.get(second.pid)
        assert (await ended(one))["result"]["starts"] == 2
        assert (await ended(two))["state"] == "done" and one.saved.deaths == 0
        third = await submit(jobs)
        assert third.pid > second.pid


def test_pids_are_never_given_twice_whatever_ends_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, "PIDS_AT_ONCE", 3)
    crashed = Pids(tmp_path)
    drawn = [crashed.draw() for _ in range(4)]
    orderly = Pids(tmp_path)
    drawn += [orderly.draw()]
    orderly.give_back()
    after = Pids(tmp_path)
    drawn += [after.draw()]
    assert drawn == sorted(set(drawn)) and drawn[:4] == [1, 2, 3, 4] and drawn[5] == drawn[4] + 1
    (tmp_path / "run" / "pids").write_text("rubbish")
    lost = Pids(tmp_path)
    lost.at_least(40)
    assert lost.draw() == 41


async def test_the_oldest_that_have_ended_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, "JOBS_KEPT", 2)
    async with daemon(tmp_path) as jobs:
        made = [await submit(jobs, steps=1) for _ in range(4)]
        await ended(made[-1])
        await until(lambda: len(jobs.rows(ended=True)) == 2)
        await until(
            lambda: sorted(path.name for path in (tmp_path / "jobs").iterdir()) == [str(j.pid) for j in made[2:]]
        )


async def test_damaged_and_unacknowledged_folders(tmp_path: Path) -> None:
    for name, text in (("7", "{"), ("8", None), ("notes", None)):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        if text is not None:
            (tmp_path / "jobs" / name / "job.json").write_text(text)
    async with daemon(tmp_path) as jobs:
        assert jobs.rows(ended=True) == []
        assert (tmp_path / "jobs" / "7" / "job.json").exists(), "what can't be read is nobody's to delete"
        assert not (tmp_path / "jobs" / "8").exists() and (tmp_path / "jobs" / "notes").exists()


async def test_a_full_disk_refuses_new_jobs_and_ends_no_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon(tmp_path) as jobs:
        job = await submit(jobs, wait="go")
        await running(tmp_path, job)

        def full(path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(job_files, "write_file", full)
        with pytest.raises(StoreError, match="free space"):
            await submit(jobs)
        (folder(tmp_path, job) / "go").touch()
        assert (await ended(job))["state"] == "done"
        assert len(list((tmp_path / "jobs").iterdir())) == 1


async def test_a_daemon_that_ends_takes_no_jobs(tmp_path: Path) -> None:
    async with daemon(tmp_path) as jobs:
        pass
    with pytest.raises(Unavailable):
        await submit(jobs)


async def test_a_process_that_cannot_be_started(tmp_path: Path) -> None:
    jobs = Jobs(settings_of(tmp_path), Pids(tmp_path).draw, SYSTEM, ("/nonexistent/python",))
    await jobs.start()
    row = await ended(await submit(jobs))
    assert row["state"] == "failed" and "FileNotFoundError" in row["error"]["message"]
    with suppress(Unavailable):
        await jobs.stop()
