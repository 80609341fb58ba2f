"""A batch of inputs on its way through an encoder, in pieces, so that a long one doesn't hold up everybody's steps."""

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

    def returned(self, job: Job) -> None:
        """A piece is done, ``job.command()`` is the next one."""
        ...

    def ended(self, job: Job, *, in_worker: bool) -> None: ...


class EncodeJob:
    """A Job (processes.py) whose result is a list of arrays, one for each input.

    ``piece_tokens``: a piece is as many inputs as fit into so many tokens, at least one.
    """

    held = False
    buffered_bytes = 0

    def __init__(self, record: Record, request: Encoding, piece_tokens: int, host: Host) -> None:
        self.record = record
        self.request = request
        self._piece_tokens = piece_tokens
        self._host = host
        self._arrays: list[Array] = []
        self._result: asyncio.Future[list[Array]] = asyncio.get_running_loop().create_future()
        record.account.prompt_tokens = sum(map(len, request.inputs))

    async def result(self) -> list[Array]:
        """float32 arrays as wire.Encoded describes them. A caller that is cancelled cancels the job."""
        try:
            return await self._result
        except asyncio.CancelledError:
            self.fail(Cancelled("the client went away"))
            raise

    def command(self) -> Encode:
        request, piece = self.request, self._piece()
        return Encode(
            pid=self.record.pid,
            model=self.record.key,
            task=request.task,
            inputs=request.inputs[piece],
            types=request.types[piece],
            normalize=request.normalize,
            priority=self.record.priority,
            share=self.record.standing.number,
            weight=self.record.standing.share.weight,
            counter=self.record.standing.share.counter,
        )

    def receive(self, report: Encoded) -> None:
        """The worker's answer to a piece. A malformed one fails this job only."""
        piece = self._piece()
        try:
            self._arrays += _arrays(report, piece.stop - piece.start)
        except ValueError as error:
            self.fail(WorkerFailed(f"the worker's answer can't be read: {error}"), in_worker=False)
            return
        if len(self._arrays) < len(self.request.inputs):
            self._host.returned(self)
            return
        if not self._result.done():
            self._result.set_result(self._arrays)
        self._leave("done", in_worker=False)

    @property
    def done_inputs(self) -> int:
        return len(self._arrays)

    def lost(self) -> None:
        """It has no state in the worker: the pieces that are done stay done."""

    def set_aside(self) -> None:
        """Nor is there a state to change."""

    def fail(self, error: KelmError, *, in_worker: bool = True) -> None:
        if self.record.finished:
            return
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # nobody may be waiting any more
        self._leave("cancelled" if isinstance(error, Cancelled) else "failed", in_worker=in_worker)

    def _piece(self) -> slice:
        start = stop = len(self._arrays)
        tokens = 0
        for length in map(len, self.request.inputs[start:]):
            tokens += length
            if tokens > self._piece_tokens and stop > start:
                break
            stop += 1
        return slice(start, stop)

    def _leave(self, state: State, *, in_worker: bool) -> None:
        self.record.transition(state)
        self._host.ended(self, in_worker=in_worker)


def _arrays(report: Encoded, inputs: int) -> list[Array]:
    """Raises ValueError unless there is one whole array for each input."""
    if not len(report.shapes) == len(report.data) == inputs:
        raise ValueError(f"{len(report.data)} results of {len(report.shapes)} shapes for {inputs} inputs")
    pairs = zip(report.shapes, report.data, strict=True)
    return [np.frombuffer(data, dtype="<f4").reshape(shape) for shape, data in pairs]
