"""One batch of inputs on its way through an encoder: asked once, answered once."""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kelm.errors import Cancelled, KelmError, WorkerFailed
from kelm.kernel.processes import Job, Record, State
from kelm.kernel.requests import Encoding
from kelm.wire.messages import Encode, Encoded

Array = NDArray[np.float32]


class Host(Protocol):
    """The kernel, as an encoding sees it."""

    def ended(self, job: Job, *, in_worker: bool) -> None: ...


class EncodeJob:
    """A Job (processes.py) whose result is a list of arrays, one for each input."""

    held = False
    buffered_bytes = 0

    def __init__(self, record: Record, request: Encoding, host: Host) -> None:
        self.record = record
        self.request = request
        self._host = host
        self._result: asyncio.Future[list[Array]] = asyncio.get_running_loop().create_future()

    async def result(self) -> list[Array]:
        """float32 arrays as wire.Encoded describes them. A caller that is cancelled cancels the job."""
        try:
            return await self._result
        except asyncio.CancelledError:
            self.fail(Cancelled("the client went away"))
            raise

    def command(self) -> Encode:
        request = self.request
        return Encode(
            pid=self.record.pid,
            model=self.record.key,
            task=request.task,
            inputs=request.inputs,
            types=request.types,
            normalize=request.normalize,
        )

    def receive(self, report: Encoded) -> None:
        """The worker's answer. A malformed one fails this job only."""
        if self.record.finished:
            return
        try:
            arrays = [
                np.frombuffer(data, dtype="<f4").reshape(shape)
                for shape, data in zip(report.shapes, report.data, strict=True)
            ]
            if len(arrays) != len(self.request.inputs):
                raise ValueError(f"{len(arrays)} results for {len(self.request.inputs)} inputs")
        except ValueError as error:
            self.fail(WorkerFailed(f"the worker's answer can't be read: {error}"), in_worker=False)
            return
        self._result.set_result(arrays)
        self._leave("done", in_worker=False)

    def lost(self) -> None:
        if self.record.state != "queued":
            self.record.transition("queued")

    def fail(self, error: KelmError, *, in_worker: bool = True) -> None:
        if self.record.finished:
            return
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # nobody may be waiting any more
        self._leave("cancelled" if isinstance(error, Cancelled) else "failed", in_worker=in_worker)

    def _leave(self, state: State, *, in_worker: bool) -> None:
        self.record.transition(state)
        self._host.ended(self, in_worker=in_worker)
