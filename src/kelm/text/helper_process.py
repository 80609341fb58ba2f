"""What both clients of the text helper share: its limits, how it is started, and what its answers mean."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from kelm import limits
from kelm.errors import InvalidRequest, Unavailable, by_code
from kelm.text.chat import Chat
from kelm.text.helper_messages import Answer, Ask, Compile, Open, Refused, Render
from kelm.wire.framing import encode

T = TypeVar("T")
Key = frozenset[tuple[str, str]]
"""Which files a helper has read already."""


@dataclass(frozen=True, slots=True)
class HelperLimits:
    """What one helper process may take."""

    load_s: float = float(limits.HELPER_LOAD_S.default or 0)
    call_s: float = float(limits.HELPER_CALL_S.default or 0)
    memory_bytes: int = int(limits.HELPER_MEMORY_BYTES.default or 0)

    def seconds(self, ask: Ask) -> float:
        return self.load_s if isinstance(ask, Open) else self.call_s


def render_of(files: Mapping[str, str], chat: Chat) -> Render:
    """The question that a chat is."""
    tools = None if chat.tools is None else list(chat.tools)
    documents = None if chat.documents is None else list(chat.documents)
    return Render(dict(files), list(chat.messages), tools, documents, chat.add_generation_prompt, dict(chat.options))


def frame(ask: Ask) -> bytes:
    """The question's bytes. Raises InvalidRequest for what JSON can say and UTF-8 cannot."""
    try:
        return encode(ask)
    except UnicodeEncodeError:
        raise InvalidRequest("the messages have a lone surrogate; send valid Unicode", param="messages") from None


def result_of(answer: Answer, kind: type[T]) -> T:
    """The answer, or the error that it carries, raised."""
    if isinstance(answer, Refused):
        raise by_code(answer.code)(answer.message, param=answer.param)
    assert isinstance(answer, kind), f"a helper answered {type(answer).__name__}"
    return answer


def is_last(answer: Answer) -> bool:
    """Whether the helper that gave this answer must be replaced."""
    return isinstance(answer, Refused) and answer.spent


def lost(ask: Ask, error: BaseException, bounds: HelperLimits) -> InvalidRequest:
    """The error of a call whose process was late or died."""
    what = {Open: "the model's tokenizer", Render: "the model's chat template", Compile: "the grammar"}[type(ask)]
    if isinstance(error, TimeoutError):
        return InvalidRequest(f"{what} took longer than the bound of {bounds.seconds(ask):g} s and was stopped")
    return InvalidRequest(f"{what} used more memory or time than its bounds and was stopped")


def not_started() -> Unavailable:
    """The error of a helper that died before its first word: no request's fault."""
    return Unavailable("the text helper process cannot start; see the log", retry_after_s=limits.RETRY_AFTER_S.default)


def command(theirs: socket.socket, bounds: HelperLimits) -> list[str]:
    """The helper's command line; it inherits ``theirs``."""
    numbers = (theirs.fileno(), bounds.memory_bytes, bounds.load_s, bounds.call_s)
    return [sys.executable, "-m", "kelm.text.helper_main", *map(str, numbers)]


def environment() -> dict[str, str]:
    """Nothing of ours but what Python needs to start: no keys, no settings; libraries with one thread."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT") if name in os.environ}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return kept | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
