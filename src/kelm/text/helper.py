"""Clients of the text helper: a process for untrusted templates, tokenizers and grammars, killed when it is late.

daemon                              helper (python -m kelm.text.helper_main)
  Open(files)       ──────────────▶   reads, checks, keeps the tokenizer       within HELPER_LOAD_S
  Render(...)       ──────────────▶   template, tokenizer                      within HELPER_CALL_S
                    ◀──────────────   Ids | Refused
  nothing in time, or the socket closes: SIGKILL, the call is an InvalidRequest, the next one gets a new process
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections.abc import Mapping
from typing import TypeVar

from kelm.text.chat import Chat
from kelm.text.helper_messages import Answer, Ask, Compile, Compiled, Ids, Open, Opened, Ready
from kelm.text.helper_process import (
    HelperLimits,
    Key,
    command,
    environment,
    frame,
    is_last,
    lost,
    not_started,
    render_of,
    result_of,
)
from kelm.wire.framing import Reader, WireError

log = logging.getLogger(__name__)
T = TypeVar("T")
_LOST = (TimeoutError, OSError, EOFError, WireError)


class TextHelper:
    """Helpers for the event loop: up to ``size`` processes, started when needed, each with one call at a time."""

    def __init__(self, size: int = 2, bounds: HelperLimits | None = None) -> None:
        self._bounds = bounds or HelperLimits()
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Child] = []

    async def check(self, files: Mapping[str, str]) -> Opened:
        """Read a checkpoint's tokenizer, chat templates and config.json in quarantine.

        Raises ModelFormatError for malformed files, InvalidRequest if reading them takes too long.
        """
        return await self._call(Open(dict(files)), Opened)

    async def render_chat(self, files: Mapping[str, str], chat: Chat) -> list[int]:
        """The prompt's token ids. Raises what ``chat.render`` raises."""
        return (await self._call(render_of(files, chat), Ids)).ids

    async def compile_grammar(self, files: Mapping[str, str], grammar: str) -> None:
        """Raises InvalidRequest for a grammar that doesn't compile."""
        await self._call(Compile(dict(files), grammar), Compiled)

    async def close(self) -> None:
        """End the processes that are idle; one in a call ends with it."""
        while self._idle:
            await self._idle.pop().kill()

    async def _call(self, ask: Ask, kind: type[T]) -> T:
        key: Key = frozenset(ask.files.items())
        async with self._free:
            child = await self._take(key)
            try:
                if key not in child.opened and not isinstance(ask, Open):
                    result_of(await self._ask(child, Open(ask.files)), Opened)
                    child.opened.add(key)
                answer = await self._ask(child, ask)
            finally:
                if child.usable:
                    self._idle.append(child)
                else:  # late, dead, or its caller went away in the middle
                    await child.kill()
        return result_of(answer, kind)

    async def _take(self, key: Key) -> _Child:
        for child in [child for child in self._idle if child.process.returncode is not None]:
            self._idle.remove(child)
            await child.kill()
        if not self._idle:
            return await _Child.start(self._bounds)
        child = next((child for child in self._idle if key in child.opened), self._idle[0])
        self._idle.remove(child)
        return child

    async def _ask(self, child: _Child, ask: Ask) -> Answer:
        try:
            return await asyncio.wait_for(child.ask(ask), self._bounds.seconds(ask))
        except _LOST as error:
            log.warning("helper_killed ask=%s reason=%s", type(ask).__name__, type(error).__name__)
            raise lost(ask, error, self._bounds) from None


class _Child:
    """One helper process and its socket."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.opened: set[Key] = set()
        self.usable = True
        """No answer is outstanding."""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, bounds: HelperLimits) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command(theirs, bounds),
                pass_fds=(theirs.fileno(),),
                env=environment(),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            result_of(await asyncio.wait_for(child._next(), bounds.load_s), Ready)
        except BaseException as error:
            await child.kill()
            raise not_started() if isinstance(error, _LOST) else error from None
        return child

    async def ask(self, ask: Ask) -> Answer:
        data = frame(ask)
        self.usable = False
        self._writer.write(data)
        await self._writer.drain()
        return await self._next()

    async def _next(self) -> Answer:
        answers: Reader[Answer] = Reader(Answer)
        while True:
            data = await self._reader.read(1 << 16)
            if not data:
                raise EOFError
            if found := answers.feed(data):
                self.usable = not is_last(found[0])
                return found[0]

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await self.process.wait()
