"""What a worker's death and the next one's birth mean: models first, then everything unfinished."""

from __future__ import annotations

import asyncio
import logging

from kelm import limits
from kelm.errors import Unavailable, WorkerFailed
from kelm.kernel.dispatch import Dispatcher
from kelm.kernel.loads import Loads
from kelm.kernel.models import Models
from kelm.kernel.processes import Job, ProcessTable
from kelm.kernel.work import Work
from kelm.wire.messages import Hello, Report

log = logging.getLogger(__name__)


class Recovery:
    """The supervisor's Listener."""

    def __init__(self, table: ProcessTable, dispatcher: Dispatcher, models: Models, loads: Loads, work: Work) -> None:
        self._table = table
        self._dispatcher = dispatcher
        self._models = models
        self._loads = loads
        self._work = work
        self._reload: asyncio.Task[None] | None = None

    def report(self, report: Report) -> None:
        self._work.report(report)

    def worker_up(self, hello: Hello) -> None:
        self._loads.worker_up()
        self._reload = asyncio.create_task(self._bring_back(), name="reload models")

    def worker_down(self, reason: str) -> None:
        self.stop()
        blamed = self._loads.loading and not self._dispatcher.in_step
        convict = self._dispatcher.worker_down(loading=blamed)
        self._loads.worker_down(blamed=blamed)
        self._work.worker_restarted()
        if convict is not None:
            self._convict(convict)

    def worker_hopeless(self, reason: str) -> None:
        error = Unavailable(
            f"the worker does not start ({reason}); the daemon's log has its last words",
            retry_after_s=limits.RETRY_AFTER_S.value,
        )
        self._loads.worker_hopeless(error)
        for job in self._table:
            job.fail(error)

    def stop(self) -> None:
        if self._reload is not None:
            self._reload.cancel()

    async def _bring_back(self) -> None:
        for model, error in await self._models.reload():
            for job in self._table.of_model(model.key):
                job.fail(error)
        self._loads.restored()
        self._dispatcher.worker_ready()

    def _convict(self, job: Job) -> None:
        deaths = int(limits.WORKER_DEATHS_ALONE.value)
        log.error("process_convicted pid=%d request=%s deaths=%d", job.record.pid, job.record.request_id, deaths)
        job.fail(WorkerFailed(f"the worker died {deaths} times while it ran this request alone"))
