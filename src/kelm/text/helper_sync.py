"""The text helper for the library: one process, and the caller waits for it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from typing import TypeVar

from kelm.clock import SYSTEM
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

T = TypeVar("T")
_LOST = (TimeoutError, OSError, EOFError, WireError)


class SyncTextHelper:
    """One helper process for the library, where nothing runs beside the caller."""

    def __init__(self, bounds: HelperLimits | None = None) -> None:
        self._bounds = bounds or HelperLimits()
        self._child: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._opened: set[Key] = set()

    def check(self, files: Mapping[str, str]) -> Opened:
        """As TextHelper.check."""
        return self._call(Open(dict(files)), Opened)

    def render_chat(self, files: Mapping[str, str], chat: Chat) -> list[int]:
        """As TextHelper.render_chat."""
        return self._call(render_of(files, chat), Ids).ids

    def compile_grammar(self, files: Mapping[str, str], grammar: str) -> None:
        """As TextHelper.compile_grammar."""
        self._call(Compile(dict(files), grammar), Compiled)

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._child is not None:
            process, connection = self._child
            connection.close()
            process.kill()
            process.wait()
        self._child = None
        self._opened.clear()

    def _call(self, ask: Ask, kind: type[T]) -> T:
        key: Key = frozenset(ask.files.items())
        if self._child is not None and self._child[0].poll() is not None:
            self.close()
        if key not in self._opened and not isinstance(ask, Open):
            result_of(self._ask(Open(ask.files)), Opened)
            self._opened.add(key)
        return result_of(self._ask(ask), kind)

    def _ask(self, ask: Ask) -> Answer:
        data = frame(ask)
        self._child = self._child or self._start()
        try:
            connection = self._child[1]
            connection.settimeout(self._bounds.seconds(ask))
            connection.sendall(data)
            answer = _next(connection, self._bounds.seconds(ask))
        except BaseException as error:
            self.close()
            raise lost(ask, error, self._bounds) if isinstance(error, _LOST) else error from None
        if is_last(answer):
            self.close()
        return answer

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                command(theirs, self._bounds),
                pass_fds=(theirs.fileno(),),
                env=environment(),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._child = process, ours
        try:
            result_of(_next(ours, self._bounds.load_s), Ready)
        except BaseException as error:
            self.close()
            raise not_started() if isinstance(error, _LOST) else error from None
        return process, ours


def _next(connection: socket.socket, seconds: float) -> Answer:
    deadline = SYSTEM.monotonic_s() + seconds
    answers: Reader[Answer] = Reader(Answer)
    while True:
        connection.settimeout(max(0.001, deadline - SYSTEM.monotonic_s()))
        data = connection.recv(1 << 16)
        if not data:
            raise EOFError
        if found := answers.feed(data):
            return found[0]
