"""One job: a row like every process, what its process reported last, and what of it is on disk."""

from __future__ import annotations

from typing import Any, cast

from msgspec.structs import asdict

from kelm.clock import Clock
from kelm.kernel.child import Child
from kelm.kernel.job_files import Saved
from kelm.kernel.processes import Record, State, Task
from kelm.wire.jobs import Began, Done, Failed, Progress, Report

Row = dict[str, Any]

TENANT = "operator"
"""Jobs come in through the admin door."""


class BackgroundJob:
    """``record`` is its state (moved by ``transition`` only); ``saved`` follows it."""

    def __init__(self, saved: Saved, clock: Clock) -> None:
        self.saved = saved
        self._clock = clock
        spec = saved.spec
        kind = cast(Task, spec.__struct_config__.tag)
        self.record = Record(
            pid=saved.pid,
            request_id=f"job-{saved.pid}",
            tenant=TENANT,
            model=spec.model,
            key="",
            kind=kind,
            rows=0,
            arrived_wall_s=saved.created,
            state=saved.state,
        )
        self.child: Child[Report, Began] | None = None
        self.cancelled = False
        """Somebody asked for its end."""
        self.outcome: Done | Failed | None = None
        """Its process's last word."""

    @property
    def pid(self) -> int:
        return self.record.pid

    def move(self, state: State) -> None:
        """Into another state, in memory; the caller saves."""
        self.record.transition(state)
        self.saved.state = state
        now_s = self._clock.wall_s()
        if state == "running" and self.saved.started is None:
            self.saved.started = now_s
        if self.record.finished:
            self.saved.finished = now_s

    def heard(self, report: Report) -> None:
        """From its process."""
        if isinstance(report, Progress):
            self.saved.progress = report
        elif isinstance(report, Done | Failed):
            self.outcome = report

    def row(self) -> Row:
        """A line of ``kelm ps``: a process's keys (control.process_row; tokens are 0), and progress (done, total,
        note, figures; None before the first), deaths, finished (Unix time), result, error (code, message), threads,
        os_pid (None while it doesn't run), spec."""
        record, saved = self.record, self.saved
        ended_s = self._clock.wall_s() if saved.finished is None else saved.finished
        return {
            "pid": record.pid,
            "request_id": record.request_id,
            "tenant": record.tenant,
            "priority": None,
            "model": record.model,
            "kind": record.kind,
            "executor": None,
            "state": record.state,
            "choices": 0,
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "generated_tokens": 0,
            "buffered_bytes": 0,
            "created": saved.created,
            "seconds": round(ended_s - saved.created, 3),
            "progress": None if saved.progress is None else asdict(saved.progress),
            "deaths": saved.deaths,
            "finished": saved.finished,
            "result": saved.result,
            "error": None if saved.error is None else asdict(saved.error),
            "threads": saved.threads,
            "os_pid": None if self.child is None else self.child.os_pid,
            "spec": {"kind": record.kind, **asdict(saved.spec)},
        }

    def why(self, ahead: int) -> Row:
        """For `kelm why`: pid, model, kind, state, waits_for (None or job), ahead (jobs before it), deaths, text."""
        record, saved = self.record, self.saved
        waits_for = "job" if record.state == "queued" else None
        return {
            "pid": record.pid,
            "model": record.model,
            "kind": record.kind,
            "state": record.state,
            "waits_for": waits_for,
            "ahead": ahead,
            "deaths": saved.deaths,
            "text": f"Job {record.pid} ({record.kind} of {record.model}) is {record.state}: {self._reason(ahead)}.",
        }

    def _reason(self, ahead: int) -> str:
        saved, state = self.saved, self.record.state
        died = f"; its process died {saved.deaths} times and went on from its checkpoint" if saved.deaths else ""
        if state == "queued":
            return f"it waits for its turn, jobs run one after another and {ahead} are ahead of it{died}"
        if state == "running":
            progress = saved.progress
            far = "" if progress is None else f", {progress.done} of {progress.total} done ({progress.note})"
            return f"it runs on {saved.threads} threads whenever nothing else needs them{far}{died}"
        return saved.error.message.rstrip(".") if saved.error is not None else f"it has ended{died}"
