"""The command line as plain data, read from the tree of Click commands that Typer builds.

`typer.main.get_command(app)` gives the tree. Typer carries a Click of its own, so nodes are known by their
attributes, not by their class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Parameter(Protocol):
    """What is read of a Click parameter."""

    @property
    def name(self) -> str | None: ...
    @property
    def opts(self) -> Sequence[str]: ...
    @property
    def secondary_opts(self) -> Sequence[str]: ...
    @property
    def required(self) -> bool: ...


class Node(Protocol):
    """What is read of a Click command; a group also has ``commands``."""

    @property
    def params(self) -> Sequence[Parameter]: ...


@dataclass(frozen=True)
class Argument:
    placeholder: str
    """What stands for it in an answer: its name in capitals, MODEL."""
    required: bool


@dataclass(frozen=True)
class Option:
    flags: tuple[str, ...]
    placeholder: str | None
    """Of its value, the long flag in capitals: ``--drop-layers`` takes DROP-LAYERS. None for a switch."""


@dataclass(frozen=True)
class Verb:
    """One command: the words after the program's name, () for the program itself."""

    words: tuple[str, ...]
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]


HELP = Option(("--help",), None)


def verbs(root: Node) -> tuple[Verb, ...]:
    """Every visible command of the tree, and the program itself with its switches (--version)."""
    return tuple(_walk(root, ()))


def _walk(node: Node, words: tuple[str, ...]) -> Iterator[Verb]:
    commands: Mapping[str, Node] = getattr(node, "commands", {})
    if not commands or not words:
        yield _verb(node, words)
    for name, child in commands.items():
        if not getattr(child, "hidden", False):
            yield from _walk(child, (*words, name))


def _verb(node: Node, words: tuple[str, ...]) -> Verb:
    arguments, options = [], [HELP]
    for parameter in node.params:
        placeholder = (parameter.name or "").upper().replace("_", "-")
        if getattr(parameter, "param_type_name", "") == "argument":
            shown = (getattr(parameter, "metavar", None) or placeholder).strip("[]<>.")
            arguments.append(Argument(shown, parameter.required))
        elif not getattr(parameter, "hidden", False) and "--help" not in parameter.opts:
            flags = (*parameter.opts, *parameter.secondary_opts)
            long = next((flag[2:].upper() for flag in flags if flag.startswith("--")), placeholder)
            options.append(Option(flags, None if getattr(parameter, "is_flag", False) else long))
    return Verb(words, tuple(arguments), tuple(options))
