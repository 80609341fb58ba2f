"""The processes of one request: one for each prompt of a batch, submitted together, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from kelm.errors import WorkerFailed
from kelm.kernel.requests import Chunk, Generation
from kelm.serve.ports import Json, Kernel, Process


class Run:
    """Submits on construction: all of ``generations`` or, when one is refused, none.

    A context manager: whatever is unfinished when it is left is cancelled.
    """

    def __init__(self, kernel: Kernel, generations: Sequence[Generation]) -> None:
        self._processes: list[Process] = []
        try:
            for generation in generations:
                self._processes.append(kernel.submit(generation))
        except BaseException:
            self.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()

    def cancel(self) -> None:
        for process in self._processes:
            process.cancel()

    @property
    def headers(self) -> dict[str, str]:
        """``x-kelm-pid``: the pids in the order of the prompts."""
        return {"x-kelm-pid": ",".join(str(process.pid) for process in self._processes)}

    @property
    def usage(self) -> Json:
        """OpenAI's usage, over all prompts; final after the last chunk."""
        used = [process.usage for process in self._processes]
        prompt, answer = sum(each.prompt_tokens for each in used), sum(each.completion_tokens for each in used)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in used)},
        }

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """(prompt, chunk) as they come. Raises the KelmError that a process failed with."""
        if len(self._processes) == 1:
            async for chunk in self._processes[0]:
                yield 0, _sound(chunk)
            return
        async for place, chunk in _merge(self._processes):
            yield place, _sound(chunk)


def _sound(chunk: Chunk) -> Chunk:
    if chunk.finish in ("abort", "error"):
        raise WorkerFailed("the process was ended before its answer was complete")
    return chunk


async def _merge(processes: Sequence[Process]) -> AsyncIterator[tuple[int, Chunk]]:
    """One chunk is asked of each process at a time, so that a slow reader still slows all of them."""
    iterators = [process.__aiter__() for process in processes]
    waiting = {_next(iterator): place for place, iterator in enumerate(iterators)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                place = waiting.pop(task)
                chunk = task.result()
                if chunk is not None:
                    waiting[_next(iterators[place])] = place
                    yield place, chunk
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _next(iterator: AsyncIterator[Chunk]) -> asyncio.Task[Chunk | None]:
    async def step() -> Chunk | None:
        return await anext(iterator, None)

    return asyncio.create_task(step())
