"""The text helper's own process: ``python -m kelm.text.helper_main FD MEMORY_BYTES LOAD_S CALL_S``.

It does one thing after another, for files and texts that nobody trusts, under limits that the system enforces:
address space, CPU seconds for each call, no core dump, dead when its parent is.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections import OrderedDict
from pathlib import Path

from kelm.errors import InvalidRequest, KelmError
from kelm.text.chat import Chat, render
from kelm.text.files import read_json
from kelm.text.grammar import GrammarCompiler
from kelm.text.helper_messages import Answer, Ask, Compile, Compiled, Ids, Open, Opened, Ready, Refused, Render
from kelm.text.template import Template
from kelm.text.tokenizer import Tokenizer
from kelm.wire.framing import Reader, encode

_KEPT = 2
"""Tokenizers kept loaded: a large one takes 200 MB."""
_PR_SET_PDEATHSIG = 1


class Helper:
    """Answers one question at a time."""

    def __init__(self) -> None:
        self._tokenizers: OrderedDict[frozenset[tuple[str, str]], Tokenizer] = OrderedDict()
        self._compiler: tuple[Tokenizer, GrammarCompiler] | None = None

    def answer(self, ask: Ask) -> Answer:
        """Never raises: an error is an answer."""
        try:
            return self._answer(ask)
        except KelmError as error:
            return Refused(error.code, error.message, error.param)
        except MemoryError:
            return Refused(
                InvalidRequest.code, "the model's chat template or grammar needs too much memory", spent=True
            )
        except Exception as error:
            logging.getLogger(__name__).exception("helper_failed ask=%s", type(ask).__name__)
            return Refused(KelmError.code, f"the text helper failed: {type(error).__name__}")

    def _answer(self, ask: Ask) -> Answer:
        tokenizer = self._load(ask.files)
        if isinstance(ask, Render):
            chat = Chat(ask.messages, ask.tools, ask.documents, ask.add_generation_prompt, ask.options)
            return Ids(render(tokenizer, chat))
        if isinstance(ask, Compile):
            self._compiler_of(tokenizer).check(ask.grammar)
            return Compiled()
        read_json(ask.files, "config.json")
        for source in tokenizer.chat_templates.values():
            Template.cached(source)
        return Opened(tokenizer.vocab_size, list(tokenizer.eos_ids), tokenizer.chat_template is not None)

    def _load(self, files: dict[str, str]) -> Tokenizer:
        key = frozenset(files.items())
        tokenizer = self._tokenizers.get(key) or Tokenizer.load(files)
        self._tokenizers[key] = tokenizer
        self._tokenizers.move_to_end(key)
        while len(self._tokenizers) > _KEPT:
            self._tokenizers.popitem(last=False)
        return tokenizer

    def _compiler_of(self, tokenizer: Tokenizer) -> GrammarCompiler:
        if self._compiler is None or self._compiler[0] is not tokenizer:
            self._compiler = (tokenizer, GrammarCompiler(tokenizer))
        return self._compiler[1]


def serve(connection: socket.socket, load_s: float, call_s: float) -> None:
    """Questions in, answers out, until the other side closes."""
    helper = Helper()
    connection.sendall(encode(Ready()))
    reader: Reader[Ask] = Reader(Ask)
    while data := connection.recv(1 << 16):
        for ask in reader.feed(data):
            _limit_cpu(load_s if isinstance(ask, Open) else call_s)
            connection.sendall(encode(helper.answer(ask)))


def main(arguments: list[str]) -> None:
    descriptor, memory_bytes, load_s, call_s = arguments
    _die_with_parent()
    _limit_memory(int(memory_bytes))
    with socket.socket(fileno=int(descriptor)) as connection, contextlib.suppress(ConnectionError):
        serve(connection, float(load_s), float(call_s))


def _die_with_parent() -> None:
    """Linux: SIGKILL when the thread that started us ends. Elsewhere, and always, the closed socket ends us."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory(above_bytes: int) -> None:
    """Address space: what the interpreter and libraries take now, plus ``above_bytes``."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + above_bytes,) * 2)


def _limit_cpu(seconds: float) -> None:
    """CPU seconds from now on; a second more than the caller waits, in case the caller is the one that hangs."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main(sys.argv[1:])
