"""The grammar of an answer about the command line, in llguidance's dialect of Lark.

An answer is text with commands in backticks. What stands between backticks is a command of the tree it is made
from: a real verb, its arguments as placeholders, its flags. Outside of them the program's name can't be written,
so no command is named that doesn't exist. Made anew from the tree whenever it is asked for: nothing to keep in step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from kelm.apps.commands import Argument, Option, Verb

PROGRAM = "kelm"
FLAGS = 3
"""The most flags in one place of a command."""


def lark(verbs: Sequence[Verb]) -> str:
    """The grammar as text, for ``Sampling.grammar``."""
    rules = [rule for number, verb in enumerate(verbs) for rule in _rules(f"v{number}", verb)]
    choices = " | ".join(f"v{number}" for number in range(len(verbs)))
    return "\n".join(
        [
            "start: TEXT? (code TEXT?)*",
            f'code: "`{PROGRAM}" ({choices}) "`"',
            *rules,
            f"TEXT: /[^`]+/ & ~/(?s:.*){PROGRAM}(?s:.*)/",
            "",
        ]
    )


def _rules(name: str, verb: Verb) -> list[str]:
    """``words options* (argument options*)...``; an argument that may be left out takes what follows it along."""
    options = f"{name}_o"
    at_least = 0 if verb.words else 1
    tail = ""
    for argument in reversed(verb.arguments):
        inner = f'" " {_placeholder(argument)} {options}{{0,{FLAGS}}}{tail}'
        tail = f" {inner}" if argument.required else f" ({inner})?"
    words = "".join(f" {word}" for word in verb.words)
    head = f"{_quoted(words)} " if words else ""
    return [
        f"{name}: {head}{options}{{{at_least},{FLAGS}}}{tail}",
        f"{options}: {' | '.join(_flag(option) for option in verb.options)}",
    ]


def _placeholder(argument: Argument) -> str:
    bare = argument.placeholder
    return f"({_quoted(bare)} | {_quoted(json.dumps(bare))})"


def _flag(option: Option) -> str:
    value = f" {option.placeholder}" if option.placeholder else ""
    return " | ".join(_quoted(f" {flag}{value}") for flag in option.flags)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
