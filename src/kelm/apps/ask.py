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
DESTRUCTIVE = frozenset(
    {"rm", "stop", "shutdown", "cancel", "update", "publish", "rollback", "key create", "key revoke"}
)
"""Verbs that take something away, or change what clients are served or who of them is let in (from the first key on,
nobody is without one); with these even a complete command is confirmed."""
ENDLESS = frozenset(
    ("serve", "run", "logs", "pretrain", "tune", "compress", "eval", "bench", "support", "cluster serve", "cluster run")
)
"""Verbs that take over the terminal or work for long."""
NAMES_A_MODEL = ("MODEL", "BASE")
"""Placeholders that a model's name in the question fills."""
_CODE = re.compile(r"`([^`]+)`")
_NEGATIVE = re.compile(r"-[0-9]+", re.ASCII)
_VARIANT = r"(@[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?(?::[1-9][0-9]*)?)?"
_ENDS = r"(?![a-z0-9_@/-]|[.:][a-z0-9])"
"""A model's name ends here: what follows does not make a longer name of it."""


@dataclass(frozen=True)
class Command:
    """A command that an answer names. ``missing`` are its placeholders, in order of appearance."""

    words: tuple[str, ...]
    """Without the program's name; placeholders stand as they are."""
    missing: tuple[str, ...]

    @property
    def destructive(self) -> bool:
        return self._is_among(DESTRUCTIVE)

    @property
    def endless(self) -> bool:
        return self._is_among(ENDLESS)

    def _is_among(self, listed: Collection[str]) -> bool:
        """Whether the command begins with one of these verbs, which may be of several words ("key revoke")."""
        return any(" ".join(self.words[:length]) in listed for length in range(1, len(self.words) + 1))

    def fill(self, placeholder: str, value: str) -> Command:
        """The command with ``value`` for a placeholder: one argument, whatever characters are in it.

        Raises InvalidRequest for what would be taken for a flag; a negative number (of a priority) is none."""
        if placeholder not in self.missing:
            raise ValueError(f"{placeholder} is not missing in {self}")
        if not value or (value.startswith("-") and not _NEGATIVE.fullmatch(value)):
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

    A MODEL (or BASE) is filled in when the question names exactly one of the ``models`` on this machine, or a variant
    of it. What the tree does not know is not offered, wherever the text came from."""
    found = _CODE.search(text)
    command = _command(found.group(1), verbs(tree)) if found else None
    named = _named(question, models)
    for placeholder in NAMES_A_MODEL:
        if command is not None and placeholder in command.missing and named is not None:
            command = command.fill(placeholder, named)
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
    """The one model that the question names, with or without its tag; a variant of it (name@variant) whole."""
    hits = {name + variant for name in models for variant in _variants(name, question)}
    return hits.pop() if len(hits) == 1 else None


def _variants(name: str, text: str) -> set[str]:
    """What follows ``name`` where it stands alone in ``text``: "" or "@variant". A part of a longer name is no hit."""
    forms = [re.escape(form) for form in (name, name.rpartition(":")[0]) if form]
    found = re.finditer(rf"(?<![a-z0-9._/@-])(?:{'|'.join(forms)}){_VARIANT}{_ENDS}", text, re.IGNORECASE)
    return {match.group(1) or "" for match in found}
