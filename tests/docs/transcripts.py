"""Transcripts in a document: what somebody types in a terminal, and what the terminal answers.

    ```console                        every line that begins with "$ " is run by bash, "> " goes on with it;
    $ kelm list                       the lines below it are what it prints
    NAME   DIGEST         SIZE        figures, digests, ages, quoted texts, widths may differ
    ...                               a line of three dots stands for any number of lines
    ```

Blocks of one document are one session: same folder, same environment, in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from documents import Document

_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
_VARIES = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b|-?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?\*?")
_AGE = re.compile(r"\d+ (?:second|minute|hour)s? ago|just now")
_RULES = re.compile(r"[─━│┃┏┓┗┛┡┩├┤┬┴┼╇╞╡═╪|+\s-]+")


@dataclass
class Command:
    """``text`` may have several lines; ``expected`` are the lines that it prints."""

    text: str
    expected: list[str] = field(default_factory=list)


def commands(document: Document) -> list[Command]:
    """Every command of the document's ``console`` blocks, in order."""
    found: list[Command] = []
    for language, content in document.blocks:
        if language != "console":
            continue
        assert content.startswith("$ "), f"a console block begins with a command: {content[:40]!r}"
        for line in content.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif line.startswith("> ") and not found[-1].expected:
                found[-1].text += "\n" + line[2:]
            else:
                found[-1].expected.append(line)
    return found


def matches(printed: str, expected: list[str]) -> bool:
    """Whether ``printed`` is what the document shows, but for what may differ."""
    wanted = "".join(".*" if line.strip() == "..." else re.escape(_plain(line)) + "\n" for line in expected)
    got = "".join(_plain(line) + "\n" for line in printed.rstrip().splitlines())
    return re.fullmatch(wanted, got, re.S) is not None


def _plain(line: str) -> str:
    """Ages as "now", figures as #, quoted texts as '' (models write them), runs of blanks and rules as a blank."""
    return _RULES.sub(" ", _VARIES.sub("#", _QUOTED.sub("''", _AGE.sub("now", line)))).strip()
