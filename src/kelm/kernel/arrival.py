"""A request between its door and the worker: it has a pid and waits for its model, or has it and is being tokenized."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from kelm.errors import Cancelled, KelmError
from kelm.kernel.processes import Record

if TYPE_CHECKING:
    from kelm.kernel.models import Model


class Arrival:
    """A Job (processes.py) that no worker is given. A context manager: a place that wasn't taken is given up.

    While it is in the table its model is in use, so what was loaded for a request is not evicted before it runs.
    """

    held = True
    buffered_bytes = 0

    def __init__(self, record: Record, leave: Callable[[Arrival], None]) -> None:
        self.record = record
        self._leave = leave
        self._model: Model | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return self.record.pid

    @property
    def model(self) -> Model:
        assert self._model is not None, "it hasn't waited for its model"
        return self._model

    async def wait(self, model: Awaitable[Model]) -> None:
        """Raises what the model fails with, or what the process was ended with meanwhile."""
        coming = asyncio.ensure_future(model)
        coming.add_done_callback(_retrieve)
        try:
            both: list[asyncio.Future[Any]] = [coming, self._failed]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            self._model = coming.result()
        except KelmError as error:
            self.fail(error)
            raise
        except asyncio.CancelledError:
            self.give_up()
            raise
        finally:
            coming.cancel()

    def taken(self) -> None:
        """The process itself is about to stand in its place."""
        if not self.record.finished:
            self.record.transition("done")
            self._leave(self)

    def give_up(self) -> None:
        """Nothing came of it: the client left, or the request was refused. Harmless after the end."""
        self.fail(Cancelled(f"request {self.record.request_id} was cancelled"))

    def fail(self, error: KelmError, *, in_worker: bool = True) -> None:
        if self.record.finished:
            return
        self.record.transition("cancelled" if isinstance(error, Cancelled) else "failed")
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # nobody may be waiting any more
        self._leave(self)

    def lost(self) -> None:
        """It has no worker to lose."""

    def set_aside(self) -> None:
        """Nor to be set aside in."""

    def command(self) -> NoReturn:
        raise AssertionError("no worker is given an arrival")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.give_up()


def _retrieve(coming: asyncio.Future[Model]) -> None:
    """Its error is told to who waits, or to nobody: the process was ended before."""
    if not coming.cancelled():
        coming.exception()
