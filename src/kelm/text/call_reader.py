"""Tool calls out of an answer's text, as it comes: what is said, and calls whose arguments stream.

    "I look."  <tool_call>  {"name": "f", "arguments":   {"x": 1}     }  </tool_call>
    text       ->           head: held until known       arguments    tail           -> text

What opens like a call and turns out to be none is given as text; so is a call of a tool that was not offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from kelm.text.call_format import CallFormat

_STRING = r'"((?:[^"\\]|\\.)*)"'
_HEAD = re.compile(rf'\s*\{{\s*"name"\s*:\s*{_STRING}\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)')
_FIRST_KEY = re.compile(rf"\s*\{{\s*(?:{_STRING}|[^\s\"])")
_KEYS = ("name", "arguments", "parameters", "type", "function")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text, or a part of the call with this index; a call's first piece has its name."""

    content: str = ""
    call: int | None = None
    name: str | None = None
    arguments: str = ""


class CallReader:
    """Of one choice. ``tools``: names that may be called; past ``most`` calls nothing is read."""

    def __init__(self, form: CallFormat, tools: Collection[str], most: int) -> None:
        self._form = form
        self._tools = tools
        self._most = most
        self._held = ""
        self._out: list[Piece] = []
        self._depth = 0
        self._quoted = self._escaped = False
        self._state: Callable[[], bool] = self._text
        self.calls = 0

    @property
    def ended(self) -> bool:
        """Whether there are calls and the last one's arguments are whole."""
        return self.calls > 0 and self._state != self._arguments

    def push(self, text: str) -> list[Piece]:
        """What this text adds; what can't be told yet is held back."""
        self._held += text
        while self._held and self._state():
            pass
        return self._take()

    def flush(self) -> list[Piece]:
        """The end of the answer: what was held is a call without its closing mark, or text."""
        held, self._held = self._held, ""
        if self._state == self._head:
            self._whole(held, self._form.opens + held)
        elif self._state in (self._text, self._prose) and (held.strip() or not self.calls):
            self._say(held)
        return self._take()

    # Each state eats from _held; True: it changed, go on at once.

    def _text(self) -> bool:
        opens = self._form.opens
        if not opens:
            return self._bare_text()
        at = self._held.find(opens)
        if at < 0:
            self._say(self._cut(len(self._held) - _open_tail(self._held, opens)))
            return False
        said = self._cut(at)
        self._say(said.rstrip())
        self._cut(len(opens))
        self._state = self._head
        return True

    def _bare_text(self) -> bool:
        """A family without marks: an answer that begins with a brace may be a call."""
        start = self._held.lstrip("; \n" if self.calls else " \n")
        if not start:
            return False
        if start[0] == "{":
            self._held = start
        self._state = self._head if start[0] == "{" else self._prose
        return True

    def _prose(self) -> bool:
        self._say(self._cut(len(self._held)))
        return False

    def _head(self) -> bool:
        if self.calls >= self._most:
            self._state = self._silence
            return True
        match = _HEAD.match(self._held)
        if match and _name(match[1]) in self._tools:
            self._begin(_name(match[1]))
            self._cut(match.end())
            self._state = self._arguments
            return True
        return self._other_order() if self._form.closes else self._no_call()

    def _other_order(self) -> bool:
        """Wait for the closing mark, then look at the whole."""
        at = self._held.find(self._form.closes)
        if at < 0:
            return False
        body = self._cut(at)
        self._cut(len(self._form.closes))
        self._whole(body, self._form.opens + body + self._form.closes)
        self._state = self._text
        return True

    def _no_call(self) -> bool:
        """A brace that began no call: an answer in JSON need not wait for its end."""
        match = _FIRST_KEY.match(self._held)
        if match is None or match[1] in _KEYS:
            return False
        self._state = self._prose
        return True

    def _arguments(self) -> bool:
        for at, character in enumerate(self._held):
            if self._closes(character):
                self._out.append(Piece(call=self.calls - 1, arguments=self._cut(at + 1)))
                self._state = self._tail
                return True
        self._out.append(Piece(call=self.calls - 1, arguments=self._cut(len(self._held))))
        return False

    def _tail(self) -> bool:
        mark = self._form.closes or "}"
        at = self._held.find(mark)
        if at < 0:
            self._cut(len(self._held) - _open_tail(self._held, mark))
            return False
        self._cut(at + len(mark))
        self._state = self._text
        return True

    def _silence(self) -> bool:
        self._held = ""
        return False

    def _closes(self, character: str) -> bool:
        """Whether ``character`` ends the object of the arguments."""
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped, self._quoted = character == "\\", character != '"'
        elif character == '"':
            self._quoted = True
        else:
            self._depth += (character in "{[") - (character in "}]")
            return self._depth == 0
        return False

    def _whole(self, body: str, otherwise: str) -> None:
        call = _parsed(body)
        if call is None or call[0] not in self._tools:
            self._say(otherwise)
        elif self.calls < self._most:
            self._begin(call[0])
            self._out.append(Piece(call=self.calls - 1, arguments=json.dumps(call[1], ensure_ascii=False)))

    def _begin(self, name: str) -> None:
        self._out.append(Piece(call=self.calls, name=name))
        self.calls += 1

    def _say(self, text: str) -> None:
        if text:
            self._out.append(Piece(content=text))

    def _cut(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def _take(self) -> list[Piece]:
        out, self._out = self._out, []
        return out


def _open_tail(text: str, mark: str) -> int:
    """How many characters at the end may belong to a mark that is not whole yet, the space before it included."""
    partial = next((size for size in range(min(len(mark), len(text)), 0, -1) if mark.startswith(text[-size:])), 0)
    rest = text[: len(text) - partial]
    return partial + len(rest) - len(rest.rstrip())


def _name(quoted: str) -> str:
    try:
        return str(json.loads(f'"{quoted}"'))
    except ValueError:
        return quoted


def _parsed(body: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of a whole call, keys in any order."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    given = call.get("arguments", call.get("parameters"))
    return (call["name"], given) if isinstance(call.get("name"), str) and isinstance(given, dict) else None
