"""Just enough of Markdown for the tests of the documents: headings, fenced blocks, links, figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[((?:[^\[\]]|`[^`]*`)+)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.M)
FIGURE = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Document:
    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Document:
        return cls(path, path.read_text(encoding="utf-8"))

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(language, content) of every fenced block."""
        return FENCE.findall(self.text)

    @property
    def headings(self) -> list[tuple[int, str]]:
        """(level, title)."""
        return [(len(marks), title.strip()) for marks, title in HEADING.findall(self.prose)]

    @property
    def links(self) -> list[tuple[str, str]]:
        """(label, target)."""
        return LINK.findall(self.prose)

    @property
    def figures(self) -> list[str]:
        """The numbers that a reader sees, in order of size: languages put them in other orders."""
        return sorted(FIGURE.findall(LINK.sub(r"\1", self.prose)))

    def section(self, number: int) -> str:
        """The prose of the section under the given second-level heading, counted from 0."""
        return re.split(r"^## .+$", self.prose, flags=re.M)[number + 1]

    @property
    def anchors(self) -> set[str]:
        """The headings' fragment names, as GitHub makes them."""
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in self.headings}
