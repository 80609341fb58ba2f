"""The kernel as the doors see it: resolve a model, submit a generation, encode, look, unload, drain."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress

from kelm import limits
from kelm.clock import Clock
from kelm.config import Settings
from kelm.errors import Cancelled, NotFound, Unavailable, UnsupportedModel
from kelm.kernel import control
from kelm.kernel.admission import Admission, check_prompt
from kelm.kernel.arrival import Arrival
from kelm.kernel.choice import Choice
from kelm.kernel.daemonfile import DaemonFile
from kelm.kernel.dispatch import Dispatcher
from kelm.kernel.encodings import Array, EncodeJob
from kelm.kernel.jobs import Jobs
from kelm.kernel.keys import Keys
from kelm.kernel.loads import Loads
from kelm.kernel.models import Model, Models
from kelm.kernel.pids import Pids
from kelm.kernel.process import Process
from kelm.kernel.processes import Job, ProcessTable
from kelm.kernel.proof import OWN_TENANT, Proof, warm_up
from kelm.kernel.records import Records
from kelm.kernel.recovery import Recovery
from kelm.kernel.requests import Encoding, Generation, Origin
from kelm.kernel.supervisor import Supervisor
from kelm.kernel.tenants import Tenants
from kelm.kernel.why import Sight, explain
from kelm.kernel.work import Work
from kelm.observe.metrics import Metrics
from kelm.observe.watchdog import LoopWatchdog
from kelm.store.names import Name
from kelm.store.store import Store
from kelm.text.helper import TextHelper
from kelm.text.stream import TextStream
from kelm.wire.messages import Command

_ROUND_S = 0.1
"""How often hangs, stalls and a drained table are looked for."""


class Kernel:
    """One for each daemon. Everything runs on one event loop; nothing here blocks it."""

    def __init__(self, settings: Settings, store: Store, clock: Clock, *, worker: Sequence[str] | None = None) -> None:
        """``worker``: the worker's command line; the default is our own."""
        self.settings = settings
        self.keys = Keys(settings.home, clock)
        self.token = secrets.token_urlsafe(32)
        """The operator's key on this machine: whoever can read KELM_HOME/run/daemon.json has it."""
        self.store = store
        self.clock = clock
        self.metrics = Metrics()
        self.helper = TextHelper()
        self.watchdog = LoopWatchdog(self.metrics, clock)
        self.shutdown_requested = asyncio.Event()
        """Set by ``request_shutdown``; whoever runs the daemon waits for it."""
        self._pids = Pids(settings.home)
        self._table = ProcessTable(self._pids.draw)
        self.jobs = Jobs(settings, self._pids.draw, clock)
        self._admission = Admission(settings.max_num_seqs, settings.max_queued, self._table, random.Random())
        self._dispatcher = Dispatcher(self._table, self._send)
        self._loads = Loads(self._send)
        self._models = Models(
            store, self.helper, self._loads, settings.dtype, self._table.of_model, self.metrics, clock
        )
        self._tenants = Tenants(self.keys.weights, clock)
        self._records = Records(self._table, self._tenants, clock)
        self._work = Work(self._table, self._dispatcher, self._loads, self._tenants, self.metrics, clock)
        self._recovery = Recovery(self._table, self._dispatcher, self._models, self._loads, self._work)
        self._supervisor = Supervisor(worker or worker_command(settings), clock, self._recovery)
        self._tasks: list[asyncio.Task[None]] = []
        self._warm: asyncio.Task[None] | None = None
        self._unloads: list[asyncio.Task[None]] = []
        self._proof = Proof(self.submit, self.encode)
        self._file: DaemonFile | None = None
        self.metrics.watch_requests(self._request_counts)

    # --- the daemon's life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when a worker is up and requests are admitted.

        Raises ConfigError when another daemon has this KELM_HOME, Unavailable when no worker comes up.
        """
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        address = f"http://{host}:{self.settings.port}"
        self._file = DaemonFile.acquire(self.settings.home, address, self.clock, self.token)
        self._tasks = [
            asyncio.create_task(self.watchdog.run(), name="loop-watchdog"),
            asyncio.create_task(self._rounds(), name="kernel-rounds"),
        ]
        try:
            await self._supervisor.start()
        except Unavailable:
            await self._stop()
            raise
        self._pids.at_least(await self.jobs.start())
        self._admission.open()
        self._warm = asyncio.create_task(warm_up(self.store, self.resolve), name="warm-up")
        self._tasks.append(self._warm)

    def announce(self, address: str) -> None:
        """Note where the doors really are (a port of 0 takes a free one), for the command line to find."""
        if self._file is not None:
            self._file.announce(address)

    @property
    def ready(self) -> bool:
        """Requests are admitted, and the worker that is up has run a step (or has no model to run one of)."""
        up = self._admission.closed is None and self._supervisor.hello is not None
        empty = self._warm is not None and self._warm.done() and not self._models.entries()
        return up and (self._dispatcher.stepped or empty)

    def request_shutdown(self) -> None:
        """Ask whoever runs the daemon to end it."""
        self.shutdown_requested.set()

    async def drain(self, seconds: float) -> None:
        """Admit nobody, give what runs ``seconds``, end the rest with Unavailable, then end worker and helper."""
        self._admission.close("the daemon is shutting down")
        stopping = asyncio.create_task(self.jobs.stop(), name="stop jobs")
        deadline_s = self.clock.monotonic_s() + seconds
        while len(self._table) and self.clock.monotonic_s() < deadline_s:
            await asyncio.sleep(min(_ROUND_S, max(0.0, deadline_s - self.clock.monotonic_s())))
        for job in self._table:
            job.fail(Unavailable("the daemon shut down before this request was finished"))
        await stopping
        await self._stop()

    # --- models --------------------------------------------------------------------------------------------

    async def resolve(self, name: str) -> Model:
        """The model called ``name``, brought into the worker when it isn't there.

        Raises ModelNotFound with near matches, Unavailable while the daemon starts or drains, and what a load can
        fail with: ModelFormatError, UnsupportedModel, OutOfMemory, WorkerFailed.
        """
        self._admission.check_open()
        return await self._models.resolve(name)

    async def unload(self, name: str) -> list[str]:
        """End what runs on the model and on its variants (Cancelled) and drop them, variants first; their names.
        Raises ModelNotFound when it isn't resident."""
        models = self._models.named(name)
        for model in models:
            for job in self._table.of_model(model.key):
                job.fail(Cancelled(f"the model {model.name} was unloaded while this request was running"))
            await self._models.unload(model)
        return [model.name for model in models]

    # --- requests ------------------------------------------------------------------------------------------

    async def enter(self, origin: Origin) -> Arrival:
        """A place in the table for a request whose model may have to be brought in first; returns when the model is
        there. ``submit`` or ``encode`` with its pid come in its place. Raises as ``resolve``, and Overloaded."""
        self._admission.check(1, self._supervisor.backlog_bytes)
        arrival = Arrival(self._records.arriving(origin), self._left)
        self._table.add(arrival)
        await arrival.wait(self._bring(arrival, origin.model))
        return arrival

    def submit(self, request: Generation) -> Process:
        """Admit a generation. Returns at once; the process is read with ``async for``.

        Raises ModelNotFound (not resolved before, or unloaded since), UnsupportedModel, InvalidRequest,
        ContextTooLong, Overloaded, Unavailable.
        """
        model, arrival = self._task_of(request, "generate")
        check_prompt(request.prompt, request.sampling.max_tokens, model.info)
        self._take(arrival)
        self._admission.check(request.n, self._supervisor.backlog_bytes)
        choices = [self._choice(index, request, model) for index in range(request.n)]
        record = self._records.begun(request, model, "generate", request.n, arrival)
        process = Process(record, request, choices, self._work)
        self._work.enter(process)
        return process

    async def encode(self, request: Encoding) -> list[Array]:
        """Run one batch through an encoder; the arrays are as wire.Encoded describes them. Raises as ``submit``."""
        model, arrival = self._task_of(request, request.task)
        for tokens in request.inputs:
            check_prompt(tokens, 0, model.info)
        self._take(arrival)
        self._admission.check(1, self._supervisor.backlog_bytes)
        record = self._records.begun(request, model, request.task, 1, arrival)
        job = EncodeJob(record, request, self.settings.step_tokens, self._work)
        self._work.enter(job)
        return await job.result()

    async def cancel(self, pid: int) -> str:
        """End a process of any kind. Returns the state it ended in: done, if it was faster. Raises NotFound."""
        process = self._table.get(pid)
        if process is not None:
            process.fail(Cancelled(f"process {pid} was cancelled by an operator"))
            return process.record.state
        if self.jobs.has(pid):
            return await self.jobs.cancel(pid)
        raise NotFound(f"there is no process {pid}; `kelm ps` lists those that there are", param="pid")

    def nice(self, pid: int, priority: int) -> control.Row:
        """Another priority, from the next step on. Returns its line of `kelm ps`. Raises NotFound, InvalidRequest."""
        limits.PRIORITY.check(priority)
        job = self._job(pid)
        job.record.priority = priority
        self._dispatcher.renice(job)
        return control.process_row(job, self._models.by_key(job.record.key), self.clock.monotonic_s())

    # --- looking -------------------------------------------------------------------------------------------

    def processes(self) -> list[control.Row]:
        """Unfinished processes in order of arrival; see control.process_row and BackgroundJob.row for the keys."""
        now_s = self.clock.monotonic_s()
        rows = [control.process_row(job, self._models.by_key(job.record.key), now_s) for job in self._table]
        return sorted(rows + self.jobs.rows(ended=False), key=lambda row: row["pid"])

    def resident(self) -> list[control.Row]:
        """Models in the worker or on their way there; see control.model_row for the keys."""
        return [control.model_row(entry, self._table) for entry in self._models.entries()]

    def tenants(self) -> list[control.Row]:
        """Those with keys, and those who came since the daemon started; see control.tenant_row for the keys."""
        shown = [tenant for tenant in self._tenants.all() if tenant.name != OWN_TENANT]
        return [control.tenant_row(tenant, self._tenants, self._table) for tenant in shown]

    def why(self, pid: int) -> control.Row:
        """What a process does or waits for; see why.explain and BackgroundJob.why for the keys. Raises NotFound."""
        if self.jobs.has(pid):
            return self.jobs.why(pid)
        job = self._job(pid)
        sight = Sight(
            entry=self._models.entry(job.record.key),
            worker_open=self._dispatcher.is_open,
            trial=self._dispatcher.trial(pid),
            counters=self._work.counters,
            rows_max=self.settings.max_num_seqs,
            others=self._table.of_model(job.record.key),
            tenants=self._tenants,
        )
        return explain(job, sight)

    def worker(self) -> control.Row:
        """The worker; see control.worker_row for the keys."""
        return control.worker_row(self._supervisor)

    @property
    def fingerprint(self) -> str | None:
        """The worker's numerics id; None while there is no worker."""
        hello = self._supervisor.hello
        return None if hello is None else hello.numerics

    # --- inside --------------------------------------------------------------------------------------------

    async def _bring(self, arrival: Arrival, name: str) -> Model:
        located = await self._models.locate(name)
        arrival.record.key, arrival.record.model = located.key, located.manifest.name  # from now on it is in use
        return await self._models.bring(located)

    def _left(self, arrival: Arrival) -> None:
        self._table.remove(arrival.pid)

    def _take(self, arrival: Arrival | None) -> None:
        if arrival is not None:
            arrival.taken()

    def _job(self, pid: int) -> Job:
        job = self._table.get(pid)
        if job is None:
            raise NotFound(f"no process {pid} is running: it has ended or never was; `kelm ps` lists those that are")
        return job

    def _task_of(self, request: Generation | Encoding, task: str) -> tuple[Model, Arrival | None]:
        """The model, and the arrival in whose place the request comes."""
        arrival = self._table.get(request.pid) if request.pid is not None else None
        arrival = arrival if isinstance(arrival, Arrival) else None
        model = self._models.find(request.model) if arrival is None else arrival.model
        if task not in model.info.tasks:
            able = ", ".join(model.info.tasks)
            raise UnsupportedModel(f"the model {model.name} does not {task}; it does: {able}", param="model")
        return model, arrival

    def _choice(self, index: int, request: Generation, model: Model) -> Choice:
        stream = TextStream(
            model.tokenizer,
            request.stop,
            include_stop=request.include_stop,
            skip_special_tokens=request.skip_special_tokens,
        )
        return Choice(index, stream)

    def _request_counts(self) -> dict[str, tuple[int, int]]:
        counts = {str(Name.parse(entry.name).unpinned): (0, 0) for entry in self._models.entries()}
        for job in self._table:
            if not job.record.key:
                continue  # its model's name is whatever somebody wrote
            running, waiting = counts.get(job.record.series, (0, 0))
            queued = job.record.state == "queued"
            counts[job.record.series] = (running + (not queued), waiting + queued)
        return counts

    def _send(self, command: Command) -> None:
        self._supervisor.send(command)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            self._supervisor.watch(self._dispatcher.busy or self._loads.busy)
            for job in self._table:
                self._models.used(job.record.key)
                if isinstance(job, Process):
                    job.cut_if_stalled()
            for model in self._models.superseded():
                if not self._table.of_model(model.key):
                    self._unloads.append(asyncio.create_task(self._models.unload(model)))
            self._unloads = [task for task in self._unloads if not task.done()]
            if self._dispatcher.is_open and not self._dispatcher.stepped and not len(self._table):
                for model in self._models.resident()[:1]:
                    self._proof.begin(model)

    async def _stop(self) -> None:
        self._proof.stop()
        self._models.stop()
        self._recovery.stop()
        await self._supervisor.stop()
        await self.helper.close()
        self.keys.close()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._file is not None:
            self._pids.give_back()
            self._file.release()
            self._file = None


def worker_command(settings: Settings) -> list[str]:
    """The serving worker's command line (worker/command_line.py reads it); its socket's descriptor comes after it."""
    given = {
        "memory-bytes": settings.memory,
        "threads": settings.threads,
        "max-num-seqs": settings.max_num_seqs,
        "step-tokens": settings.step_tokens,
        "executor": settings.executor,
    }
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "kelm.worker", *flags]
