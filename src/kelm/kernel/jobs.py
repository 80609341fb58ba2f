"""The jobs of a daemon: accepted onto the disk, run a bounded number at a time, each in a process of its own.

    accepted ──► queued ──► running ──► done, failed, cancelled
                   ▲           │
                   └───────────┘   its process was killed: again from its checkpoint, limits.JOB_DEATHS times
                                   the daemon ended or died: again at the next one's start

A job's process (kelm.jobs) is below everything else: idle scheduling, and the first to go when memory ends. Nothing
that happens to it is felt by the serving worker or by anybody's stream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from kelm import limits
from kelm.clock import Clock
from kelm.config import Settings
from kelm.errors import NotFound, Overloaded, Unavailable
from kelm.kernel.child import JOB, Child, NeverUp
from kelm.kernel.job import BackgroundJob, Row
from kelm.kernel.job_files import JobFiles, Saved
from kelm.kernel.processes import State
from kelm.wire.jobs import Done, Failed, Spec, Start, Stop

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "kelm.jobs")


class Jobs:
    """Unfinished jobs and the last ones that ended. ``command``: what starts a job's process."""

    def __init__(
        self, settings: Settings, new_pid: Callable[[], int], clock: Clock, command: Sequence[str] = COMMAND
    ) -> None:
        self._settings = settings
        self._new_pid = new_pid
        self._clock = clock
        self._command = tuple(command)
        self._files = JobFiles(settings.home)
        self._jobs: dict[int, BackgroundJob] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """Of the jobs whose turn it is; at most limits.JOBS_RUNNING."""
        self._stopping = False
        self._open = False

    async def start(self) -> int:
        """Take up what a daemon before this one left unfinished. Returns the highest pid there is, 0 without jobs."""
        for saved in await asyncio.to_thread(self._files.load):
            unfinished = saved.state in ("running", "paused")
            job = BackgroundJob(saved, self._clock)
            self._jobs[job.pid] = job
            if unfinished:
                job.move("queued")
            if not job.record.finished:
                log.info("job_taken_up pid=%d kind=%s", job.pid, job.record.kind)
        self._open = True
        self._fill()
        return max(self._jobs, default=0)

    async def submit(self, spec: Spec, data: bytes | None) -> BackgroundJob:
        """Accept a job; it is on disk when this returns. A caller that goes away changes nothing any more.

        Raises Overloaded, StoreError, Unavailable (draining).
        """
        return await asyncio.shield(self._accept(spec, data))

    def get(self, pid: int) -> BackgroundJob:
        """Raises NotFound."""
        if pid not in self._jobs:
            raise NotFound(f"there is no job {pid}; `kelm ps --all` lists those that there are", param="pid")
        return self._jobs[pid]

    def has(self, pid: int) -> bool:
        return pid in self._jobs

    def rows(self, *, ended: bool) -> list[Row]:
        """Unfinished jobs, and those that have ended too if ``ended``; job.BackgroundJob.row has the keys."""
        return [job.row() for job in self._jobs.values() if ended or not job.record.finished]

    def why(self, pid: int) -> Row:
        """Raises NotFound."""
        job = self.get(pid)
        ahead = sum(other.pid < pid and not other.record.finished for other in self._jobs.values())
        return job.why(ahead)

    async def read_log(self, pid: int, offset: int) -> Row:
        """``text`` from ``offset`` on, ``next`` offset, ``state``; in an end state with no text there is no more."""
        job = self.get(pid)
        state = job.record.state  # before the text: what comes after an end is asked for again
        text, following = await asyncio.to_thread(self._files.read_log, pid, offset)
        return {"text": text, "next": following, "state": state}

    async def cancel(self, pid: int) -> State:
        """Ask a job to end and wait until it has. Returns its state: done, if it was faster. Raises NotFound."""
        job, task = self.get(pid), self._tasks.get(pid)
        if task is not None:
            job.cancelled = True
            self._ask_to_stop(job)
            await asyncio.wait([task])
        elif not job.record.finished:
            await self._ended(job, "cancelled")
        return job.record.state

    async def stop(self) -> None:
        """The daemon ends: every process leaves a checkpoint and goes; unfinished jobs are the next daemon's."""
        self._stopping = True
        for pid in self._tasks:
            self._ask_to_stop(self._jobs[pid])
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _accept(self, spec: Spec, data: bytes | None) -> BackgroundJob:
        if self._stopping or not self._open:
            raise Unavailable("the daemon is not taking jobs now; try again later", retry_after_s=1)
        waiting = sum(job.record.state == "queued" for job in self._jobs.values())
        if waiting >= limits.JOBS_QUEUED.value:
            raise Overloaded(f"{waiting} jobs wait already; cancel some (`kelm cancel PID`) or wait for them")
        saved = Saved(pid=self._new_pid(), spec=spec, threads=self._settings.job_threads, created=self._clock.wall_s())
        await asyncio.to_thread(self._files.create, saved, data)
        job = BackgroundJob(saved, self._clock)
        self._jobs[job.pid] = job
        log.info("job_accepted pid=%d kind=%s model=%s", job.pid, job.record.kind, job.record.model)
        self._fill()
        return job

    # --- one job's life ------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begin jobs, the oldest first, while there is a place and the daemon doesn't end."""
        for job in list(self._jobs.values()):
            if self._stopping or len(self._tasks) >= limits.JOBS_RUNNING.value:
                return
            if job.record.state == "queued" and job.pid not in self._tasks:
                task = asyncio.create_task(self._life(job), name=f"job {job.pid}")
                self._tasks[job.pid] = task
                task.add_done_callback(lambda _, pid=job.pid: self._place_free(pid))  # type: ignore[misc]

    def _place_free(self, pid: int) -> None:
        del self._tasks[pid]
        self._fill()

    async def _life(self, job: BackgroundJob) -> None:
        try:
            while not job.record.finished and not self._stopping:
                await self._one_process(job)
        except Exception as error:  # our own bug ends this job, not the daemon
            log.exception("job_lost pid=%d", job.pid)
            job.saved.error = Failed("internal_error", f"the daemon could not run this job ({type(error).__name__})")
            if not job.record.finished:
                await self._ended(job, "failed")

    async def _one_process(self, job: BackgroundJob) -> None:
        """From spawn to burial, and what it means."""
        output = await asyncio.to_thread(self._files.open_log, job.pid)
        try:
            child = job.child = await Child.spawn(self._command, JOB, job.heard, output)
        finally:
            os.close(output)
        try:
            await child.hello()
            job.move("running")
            await self._save(job)
            child.send(self._order(job))
            log.info("job_started pid=%d os_pid=%d deaths=%d", job.pid, child.os_pid, job.saved.deaths)
            if job.cancelled or self._stopping:
                self._ask_to_stop(job)
        except NeverUp as error:
            child.kill(str(error))
        finally:
            reason = await child.gone()
            job.child = None
        await self._after(job, reason)

    async def _after(self, job: BackgroundJob, reason: str) -> None:
        outcome, job.outcome = job.outcome, None
        if isinstance(outcome, Done):
            job.saved.result = outcome.result
            await self._ended(job, "done")
        elif job.cancelled:
            await self._ended(job, "cancelled")
        elif self._stopping:
            await self._requeue(job)
        elif isinstance(outcome, Failed):
            job.saved.error = outcome
            await self._ended(job, "failed")
        else:
            await self._died(job, reason)

    async def _died(self, job: BackgroundJob, reason: str) -> None:
        job.saved.deaths += 1
        log.warning("job_died pid=%d reason=%r deaths=%d", job.pid, reason, job.saved.deaths)
        if job.saved.deaths < limits.JOB_DEATHS.value:
            await self._requeue(job)
            return
        message = (
            f"its process died {job.saved.deaths} times, the last time because {reason}; if that was for lack of "
            f"memory, free some; `kelm logs {job.pid}` has its last words"
        )
        job.saved.error = Failed("worker_failed", message)
        await self._ended(job, "failed")

    async def _requeue(self, job: BackgroundJob) -> None:
        if job.record.state != "queued":
            job.move("queued")
        await self._save(job)

    async def _ended(self, job: BackgroundJob, state: State) -> None:
        job.move(state)
        await self._save(job)
        error = job.saved.error
        log.info("job_ended pid=%d state=%s error=%r", job.pid, state, None if error is None else error.message)
        await asyncio.to_thread(self._files.drop_work, job.pid)
        await self._forget_old()

    async def _forget_old(self) -> None:
        ended = [job.pid for job in self._jobs.values() if job.record.finished]
        for pid in sorted(ended)[: -int(limits.JOBS_KEPT.value)]:
            del self._jobs[pid]
            with suppress(OSError):
                await asyncio.to_thread(self._files.remove, pid)

    async def _save(self, job: BackgroundJob) -> None:
        """A disk that is full must not end a job that runs: what is on it is an older state of the same job."""
        try:
            await asyncio.to_thread(self._files.save, job.saved)
        except OSError as error:
            log.error("job_not_saved pid=%d reason=%r", job.pid, error.strerror)

    def _ask_to_stop(self, job: BackgroundJob) -> None:
        """Stop, and SIGKILL after limits.JOB_STOP_S. One that is not up yet is told when it is."""
        child = job.child
        if child is not None:
            child.send(Stop())
            asyncio.get_running_loop().call_later(limits.JOB_STOP_S.value, child.kill, "it did not stop in time")

    def _order(self, job: BackgroundJob) -> Start:
        return Start(
            pid=job.pid,
            spec=job.saved.spec,
            home=str(self._settings.home),
            folder=str(self._files.folder(job.pid)),
            threads=job.saved.threads,
            memory_bytes=self._settings.job_memory,
        )
