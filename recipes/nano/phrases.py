"""A small phrase language: (a|b|) chooses, <slot> refers to a slot; files hold sections of lines.

@ name      the lines below express need `name` (in files slots.*: a slot)
@@ name     the lines below are alternatives of slot `name`
V ...       completes "how do I ..."
N ...       a thing somebody wants to see or have
Q ...       a whole message
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

HELD_OUT_SHARE = 25
"""One line in so many is kept for the held-out split: its templates are never seen in training."""


@dataclass(frozen=True)
class Ref:
    name: str


@dataclass(frozen=True)
class Choice:
    options: tuple[tuple[Choice | str | Ref, ...], ...]


@dataclass(frozen=True)
class Line:
    kind: str
    parts: tuple[Choice | str | Ref, ...]
    held_out: bool


_TOKEN = re.compile(r"[()|]|<[a-z]+>|[^()|<]+|<")


def parse(text: str) -> tuple[Choice | str | Ref, ...]:
    """``text`` as a sequence of literals, references and choices. ValueError on an unbalanced parenthesis."""
    stack: list[list[list[Choice | str | Ref]]] = [[[]]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([[]])
        elif token == ")":
            options = stack.pop()
            if not stack:
                raise ValueError(f"unbalanced ) in {text!r}")
            stack[-1][-1].append(Choice(tuple(tuple(option) for option in options)))
        elif token == "|" and len(stack) > 1:
            stack[-1].append([])
        elif token.startswith("<") and token.endswith(">"):
            stack[-1][-1].append(Ref(token[1:-1]))
        else:
            stack[-1][-1].append(token)
    if len(stack) != 1:
        raise ValueError(f"unbalanced ( in {text!r}")
    return tuple(stack[0][0])


class Phrases:
    """The sections of some phrase files and the slots they refer to."""

    def __init__(self, made: dict[str, Callable[[Random], str]]) -> None:
        self._made = made
        self._slots: dict[str, list[tuple[Choice | str | Ref, ...]]] = {}
        self.sections: dict[str, list[Line]] = {}

    def read(self, path: Path) -> None:
        section, is_slot = "", path.name.startswith("slots.")
        for raw in map(str.rstrip, path.read_text(encoding="utf-8").splitlines()):
            if not raw or raw.startswith("#"):
                continue
            if raw.startswith("@"):
                section, is_slot = raw.lstrip("@ "), raw.startswith("@@") or path.name.startswith("slots.")
            elif is_slot:
                self._slots.setdefault(section, []).append(parse(raw))
            else:
                kind, _, text = raw.partition(" ")
                digest = hashlib.sha256(raw.encode()).digest()
                line = Line(kind, parse(text), int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0)
                self.sections.setdefault(section, []).append(line)

    def say(self, parts: tuple[Choice | str | Ref, ...], rng: Random) -> str:
        """One expansion of ``parts``."""
        out = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif isinstance(part, Choice):
                out.append(self.say(rng.choice(part.options), rng))
            elif part.name in self._made:
                out.append(self._made[part.name](rng))
            else:
                out.append(self.pick(part.name, rng))
        return "".join(out)

    def pick(self, slot: str, rng: Random) -> str:
        """One expansion of one of the alternatives of ``slot``."""
        return self.say(rng.choice(self._slots[slot]), rng)

    def lines(self, section: str, *, held_out: bool, kinds: str) -> list[Line]:
        """The lines of ``section`` in one split; may be empty."""
        return [line for line in self.sections[section] if line.held_out == held_out and line.kind in kinds]
