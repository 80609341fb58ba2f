"""The work in flight: what the worker reports reaches its job and the metrics, and what ends leaves the table once."""

from __future__ import annotations

import logging

from kelm.clock import Clock
from kelm.errors import WorkerFailed, by_code
from kelm.kernel.dispatch import Dispatcher
from kelm.kernel.encodings import EncodeJob
from kelm.kernel.loads import Loads
from kelm.kernel.process import Process
from kelm.kernel.processes import Job, ProcessTable
from kelm.kernel.tenants import Tenants
from kelm.observe.metrics import Metrics
from kelm.wire.messages import (
    Charge,
    Counters,
    Encoded,
    Failed,
    Hello,
    Move,
    PromptLogprobs,
    Report,
    Started,
    Step,
    StepBegin,
    Tokens,
)

log = logging.getLogger(__name__)


class Work:
    """The Host of processes and encodings; ``report`` takes everything that a worker says after its hello."""

    def __init__(
        self,
        table: ProcessTable,
        dispatcher: Dispatcher,
        loads: Loads,
        tenants: Tenants,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.clock = clock
        self.counters: Counters | None = None
        """Of the last step of the worker that is up."""
        self._tenants = tenants
        self._table = table
        self._dispatcher = dispatcher
        self._loads = loads
        self._metrics = metrics

    # for jobs

    def enter(self, job: Job) -> None:
        """A job was admitted."""
        self._table.add(job)
        self.settle(job)

    def settle(self, job: Job) -> None:
        self._tenants.wants(job.record.standing, job.record.pid, not job.held)
        self._dispatcher.settle(job)

    def returned(self, job: Job) -> None:
        self._dispatcher.returned(job)

    def drop_choice(self, pid: int, choice: int) -> None:
        self._dispatcher.drop_choice(pid, choice)

    def ended(self, job: Job, *, in_worker: bool) -> None:
        record = job.record
        record.account.finished_s = now_s = self.clock.monotonic_s()
        self._table.remove(record.pid)
        self._tenants.wants(record.standing, record.pid, False)
        self._dispatcher.ended(record.pid, in_worker=in_worker)
        seconds = now_s - record.account.arrived_s
        if isinstance(job, Process):
            self._metrics.ended(record.series, seconds, job.finish_reasons())
        log.info(
            "process_ended pid=%d request=%s kind=%s model=%s state=%s seconds=%.3f tokens=%d",
            *(record.pid, record.request_id, record.kind, record.model, record.state),
            *(seconds, record.account.generated_tokens),
        )

    def worker_restarted(self) -> None:
        self.counters = None
        self._metrics.worker_restarted()

    # from the worker

    def report(self, report: Report) -> None:
        match report:
            case StepBegin():
                self._dispatcher.step_begins(report)
            case Step():
                self._step(report)
            case Encoded():
                self._encoded(report)
            case Failed():
                self._failed(report)
            case Hello():
                log.warning("worker_said_hello_twice pid=%d", report.pid)
            case _:
                self._loads.report(report)

    def _step(self, step: Step) -> None:
        self._dispatcher.step_ended()
        self._metrics.counters(step.counters)
        self._charged(step.charges)
        self.counters = step.counters
        for started in step.started:
            self._started(started)
        for move in step.moves:
            self._moved(move)
        for pid, again in step.recomputed.items():
            self._recomputed(pid, again)
        for prompt in step.prompts:
            self._prompt_scored(prompt)
        for tokens in step.tokens:
            self._tokens(tokens)

    def _started(self, started: Started) -> None:
        job = self._table.get(started.pid)
        if not isinstance(job, Process):
            return
        if job.record.account.started_s is None:
            self._metrics.prompt_tokens.labels(job.record.series).inc(job.record.account.prompt_tokens)
            self._metrics.cached_tokens.labels(job.record.series).inc(started.cached_tokens)
        job.started(started)

    def _moved(self, move: Move) -> None:
        job = self._table.get(move.pid)
        if isinstance(job, Process):
            job.moved(move)

    def _recomputed(self, pid: int, tokens: int) -> None:
        job = self._table.get(pid)
        if job is not None:
            job.record.account.recomputed_tokens += tokens

    def _charged(self, charges: list[Charge]) -> None:
        for tenant, tokens in self._tenants.charged(charges):
            self._metrics.tenant_tokens.labels(tenant.name).inc(tokens)

    def _prompt_scored(self, prompt: PromptLogprobs) -> None:
        job = self._table.get(prompt.pid)
        if isinstance(job, Process):
            job.prompt_scored(prompt.entries)

    def _tokens(self, tokens: Tokens) -> None:
        job = self._table.get(tokens.pid)
        if not isinstance(job, Process):
            return  # ended here, the worker doesn't know yet
        try:
            counted = job.receive(tokens)
        except Exception:  # one fault is charged to one process
            log.exception("tokens_unreadable pid=%d request=%s", job.pid, job.request_id)
            job.fail(WorkerFailed(f"what the worker sent for request {job.request_id} can't be read"))
            return
        if counted:
            self._measure(job, tokens.choice, counted)
        self._dispatcher.progressed(tokens.pid)

    def _measure(self, process: Process, choice: int, counted: int) -> None:
        model, account, now_s = process.record.series, process.record.account, self.clock.monotonic_s()
        self._metrics.generation_tokens.labels(model).inc(counted)
        if account.first_token_s is None:
            account.first_token_s = now_s
            self._metrics.ttft.labels(model).observe(now_s - account.arrived_s)
        gap_s = process.gap_s(choice, now_s)
        if gap_s is not None:
            self._metrics.itl.labels(model).observe(gap_s)

    def _encoded(self, encoded: Encoded) -> None:
        self._dispatcher.encoded()
        self._charged(encoded.charges)
        job = self._table.get(encoded.pid)
        if isinstance(job, EncodeJob):
            job.receive(encoded)
            self._dispatcher.progressed(encoded.pid)

    def _failed(self, failed: Failed) -> None:
        job = self._table.get(failed.pid)
        if job is not None:
            job.fail(by_code(failed.code)(failed.message), in_worker=False)
