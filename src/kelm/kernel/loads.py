"""The conversation with the worker about models: Load and Unload, its answers, and what its death means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kelm import limits
from kelm.errors import KelmError, OutOfMemory, WorkerFailed, by_code
from kelm.wire.messages import Command, Load, Loaded, LoadFailed, LoadProgress, Unload, Unloaded

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class _WorkerGone(Exception):
    """The worker died while it loaded; ``blamed``: nothing else can have been the cause."""

    def __init__(self, blamed: bool) -> None:
        super().__init__()
        self.blamed = blamed


class Loads:
    """One load at a time, so that whatever is being loaded when the worker dies is the suspect.

    A new worker is first given the models that its predecessor had; newcomers wait until they are ``restored``, else
    one of them could take their memory.
    """

    def __init__(self, send: Callable[[Command], None]) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._up = asyncio.Event()
        self._restored = asyncio.Event()
        self._hopeless: KelmError | None = None
        self._answer: asyncio.Future[Loaded] | None = None
        self._loading = ""
        self._progress: Progress | None = None
        self._deaths: dict[str, int] = {}
        self._unloading: dict[str, asyncio.Future[None]] = {}

    @property
    def loading(self) -> bool:
        return self._answer is not None

    @property
    def busy(self) -> bool:
        """Whether an answer of the worker is awaited."""
        return self.loading or bool(self._unloading)

    async def load(self, load: Load, progress: Progress, *, again: bool = False) -> Loaded:
        """Wait for a worker and for its turn, then for its answer; tried again when the worker dies meanwhile.

        ``again``: the last worker had it. Raises what the worker says (UnsupportedModel, ModelFormatError, OutOfMemory,
        ...), or WorkerFailed when it died of it limits.WORKER_DEATHS_ALONE times.
        """
        ready = self._up if again else self._restored
        while True:
            await ready.wait()
            if self._hopeless is not None:
                raise self._hopeless
            async with self._turn:
                try:
                    return await self._ask(load, progress, ready)
                except _WorkerGone as gone:
                    if gone.blamed:
                        self._charge(load.model)

    async def unload(self, key: str) -> None:
        """Returns when the worker has dropped it, or is dead."""
        if key not in self._unloading:
            self._unloading[key] = asyncio.get_running_loop().create_future()
            self._send(Unload(key))
        dropped = self._unloading[key]
        if not self._up.is_set():
            self._unloaded(key)
        await asyncio.shield(dropped)

    # what the worker reports

    def report(self, report: Loaded | LoadProgress | LoadFailed | Unloaded) -> None:
        if isinstance(report, Unloaded):
            self._unloaded(report.model)
        elif self._answer is None or self._answer.done() or report.model != self._loading:
            log.warning("load_report_unexpected kind=%s model=%s", type(report).__name__, report.model)
        elif isinstance(report, LoadProgress):
            if self._progress is not None:
                self._progress(report.done_bytes, report.total_bytes)
        elif isinstance(report, Loaded):
            self._answer.set_result(report)
        else:
            error = by_code(report.code)(report.message)
            if isinstance(error, OutOfMemory):
                error.missing_bytes = report.missing_bytes
            self._answer.set_exception(error)

    # the worker's life

    def worker_up(self) -> None:
        self._hopeless = None
        self._up.set()

    def restored(self) -> None:
        """The worker that is up has what the last one had."""
        self._restored.set()

    def worker_down(self, *, blamed: bool) -> None:
        """``blamed``: it died outside a step, so of what it was loading."""
        self._up.clear()
        self._restored.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_WorkerGone(blamed))
        for key in list(self._unloading):
            self._unloaded(key)

    def worker_hopeless(self, error: KelmError) -> None:
        """End every load that waits for a worker."""
        self._hopeless = error
        for event in (self._up, self._restored):
            event.set()  # wakes those who wait now
            event.clear()

    async def _ask(self, load: Load, progress: Progress, ready: asyncio.Event) -> Loaded:
        if not ready.is_set():
            raise _WorkerGone(blamed=False)
        self._answer = asyncio.get_running_loop().create_future()
        self._loading, self._progress = load.model, progress
        self._send(load)
        try:
            loaded = await self._answer
        finally:
            self._answer = self._progress = None
        self._deaths.pop(load.model, None)
        return loaded

    def _charge(self, key: str) -> None:
        deaths = self._deaths[key] = self._deaths.get(key, 0) + 1
        if deaths >= limits.WORKER_DEATHS_ALONE.value:
            del self._deaths[key]
            name = key.rpartition("@")[0]
            raise WorkerFailed(f"the worker died {deaths} times while it loaded {name}; is there enough memory for it?")

    def _unloaded(self, key: str) -> None:
        waiting = self._unloading.pop(key, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
