"""What a reader has not taken yet: chunks in order, their size in bytes, and how it ends."""

from __future__ import annotations

import asyncio
from collections import deque

from kelm.errors import KelmError
from kelm.kernel.requests import Chunk
from kelm.wire.messages import TokenLogprobs

_CHUNK_BYTES = 128
_TOKEN_BYTES = 8
_LOGPROBS_BYTES = 64
_TOP_BYTES = 24


class Outbox:
    """One writer (the kernel), one reader (a client's task). The writer is never blocked; it looks at ``bytes``."""

    def __init__(self) -> None:
        self.bytes = 0
        self._chunks: deque[tuple[Chunk, int]] = deque()
        self._ready = asyncio.Event()
        self._closed = False
        self._error: KelmError | None = None

    def put(self, chunk: Chunk) -> None:
        size = chunk_bytes(chunk)
        self._chunks.append((chunk, size))
        self.bytes += size
        self._ready.set()

    def close(self, error: KelmError | None = None) -> None:
        """No more chunks. What is buffered is still read, then comes the error if there is one."""
        if not self._closed:
            self._closed, self._error = True, error
            self._ready.set()

    def discard(self) -> None:
        """Forget what was not read: its reader is gone."""
        self._chunks.clear()
        self.bytes = 0

    async def take(self) -> Chunk | None:
        """The next chunk, None after the last; raises the error that it was closed with."""
        while not self._chunks:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._ready.clear()
            await self._ready.wait()
        chunk, size = self._chunks.popleft()
        self.bytes -= size
        return chunk


def chunk_bytes(chunk: Chunk) -> int:
    """About what a chunk holds in memory; the text counts as UTF-8."""
    logprobs: list[TokenLogprobs | None] = [*chunk.logprobs, *(chunk.prompt_logprobs or ())]
    tops = sum(len(entry.top) for entry in logprobs if entry is not None)
    return (
        _CHUNK_BYTES
        + len(chunk.text.encode(errors="surrogatepass"))
        + _TOKEN_BYTES * len(chunk.ids)
        + _LOGPROBS_BYTES * len(logprobs)
        + _TOP_BYTES * tops
    )
