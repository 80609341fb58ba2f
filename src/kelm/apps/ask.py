"""`kelm ask QUESTION`: the embedded model names a command, and the command line offers to run it.

    tree -> grammar --+
    question ---------+-> request() -> any door that takes a grammar -> reply -> interpret() -> Answer
                                                                                  |
                       what the user still has to fill in, and whether to ask ----+

Nothing is run here. A placeholder is never run as it stands, and what deletes or stops something is confirmed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kelm.apps import answer_grammar
from kelm.apps.answer_grammar import PROGRAM
from kelm.apps.commands import Node, Verb, verbs
from kelm.errors import InvalidRequest

MAX_TOKENS = 128
DESTRUCTIVE = frozenset({"rm", "stop", "shutdown"})
"""Verbs that take something away; with these even a complete command is confirmed."""
ENDLESS = frozenset({"serve", "run", "logs", "pretrain"})
"""Verbs that take over the terminal or work for long."""
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command that an answer names. ``missing`` are its placeholders, in order of appearance."""

    words: tuple[str, ...]
    """Without the program's name; placeholders stand as they are."""
    missing: tuple[str, ...]

    @property
    def destructive(self) -> bool:
        return bool(DESTRUCTIVE.intersection(self.words[:1]))

    @property
    def endless(self) -> bool:
        return bool(ENDLESS.intersection(self.words[:1]))

    def fill(self, placeholder: str, value: str) -> Command:
        """The command with ``value`` for a placeholder: one argument, whatever characters are in it.

        Raises InvalidRequest for what would be taken for a flag."""
        if placeholder not in self.missing:
            raise ValueError(f"{placeholder} is not missing in {self}")
        if value.startswith("-") or not value:
            raise InvalidRequest(f"{placeholder} must not be empty or begin with '-', got {value!r}", param=placeholder)
        words = tuple(value if word == placeholder else word for word in self.words)
        return replace(self, words=words, missing=tuple(name for name in self.missing if name != placeholder))

    def arguments(self) -> list[str]:
        """For exec: complete, never through a shell. ValueError while something is missing."""
        if self.missing:
            raise ValueError(f"fill in {', '.join(self.missing)} first")
        return list(self.words)

    def __str__(self) -> str:
        return shlex.join((PROGRAM, *self.words))


@dataclass(frozen=True)
class Answer:
    """``command`` is None when the model names none: small talk, or it does not know."""

    text: str
    command: Command | None


def request(model: str, question: str, tree: Node) -> dict[str, Any]:
    """The body of a chat completion: greedy, and bound by the grammar of this very command line."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_completion_tokens": MAX_TOKENS,
        "grammar": answer_grammar.lark(verbs(tree)),
    }


def interpret(text: str, question: str, tree: Node, models: Collection[str] = ()) -> Answer:
    """The model's words and the first command in them.

    A MODEL is filled in when the question names exactly one of the ``models`` on this machine. What the tree
    does not know is not offered, wherever the text came from."""
    found = _CODE.search(text)
    command = _command(found.group(1), verbs(tree)) if found else None
    named = _named(question, models)
    if command is not None and "MODEL" in command.missing and named is not None:
        command = command.fill("MODEL", named)
    return Answer(text.strip(), command)


def _command(code: str, known: Sequence[Verb]) -> Command | None:
    try:
        program, *words = shlex.split(code)
    except ValueError:
        return None
    verb = max(
        (verb for verb in known if tuple(words[: len(verb.words)]) == verb.words),
        key=lambda verb: len(verb.words),
        default=None,
    )
    if program != PROGRAM or verb is None:
        return None
    allowed = {argument.placeholder for argument in verb.arguments}
    allowed |= {option.placeholder for option in verb.options if option.placeholder}
    flags = {flag for option in verb.options for flag in option.flags}
    rest = words[len(verb.words) :]
    if not words or not all(word in allowed or word in flags for word in rest):
        return None
    return Command(tuple(words), tuple(dict.fromkeys(word for word in rest if word in allowed)))


def _named(question: str, models: Collection[str]) -> str | None:
    """The one model that the question names, by its name with or without a tag."""
    asked = question.casefold()
    hits = [
        name
        for name in models
        if any(_stands_alone(form, asked) for form in (name.casefold(), name.casefold().rpartition(":")[0]) if form)
    ]
    return hits[0] if len(hits) == 1 else None


def _stands_alone(name: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9._-]){re.escape(name)}(?![a-z0-9_-])", text) is not None
