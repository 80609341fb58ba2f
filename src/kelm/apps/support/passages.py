"""Articles (Markdown) and the passages that they are cut into: one for each heading, long ones at their paragraphs.

A passage is what a search finds, what an answer quotes and what a link leads to: ``/articles/<article>#<anchor>``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from kelm import limits
from kelm.errors import ConfigError
from kelm.text import rows

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable("image").enable("table")
"""HTML in an article is text, and pictures are links: pages load nothing from elsewhere."""


@dataclass(frozen=True, slots=True)
class Passage:
    """``text`` is plain: a paragraph or an item of a list is a line. ``article`` is the file's name without .md."""

    article: str
    anchor: str
    title: str
    heading: str
    text: str

    @property
    def url(self) -> str:
        return f"/articles/{self.article}#{self.anchor}"

    @property
    def digest(self) -> str:
        """Of what is embedded: the same for the same words, whichever file they come from."""
        return hashlib.sha256(self.embedded.encode()).hexdigest()

    @property
    def embedded(self) -> str:
        """What the embedding model reads."""
        return (
            f"{self.title}. {self.heading}. {self.text}" if self.heading != self.title else f"{self.title}. {self.text}"
        )


@dataclass(frozen=True, slots=True)
class Article:
    """One file. ``html`` is for its page, every heading with an id."""

    name: str
    title: str
    html: str
    passages: tuple[Passage, ...]


def read(path: Path) -> Article:
    """Raises ConfigError for a name that makes no address, no title or no text, InvalidRequest for what isn't UTF-8."""
    where = f"articles/{path.name}"
    if not _NAME.fullmatch(path.stem):
        raise ConfigError(f"{where}: name it with small letters, digits, - and _, at most 64: the name is its address")
    raw = path.read_bytes()
    if len(raw) > limits.SUPPORT_ARTICLE_BYTES.most:
        raise ConfigError(f"{where}: {len(raw)} bytes, the limit is {limits.SUPPORT_ARTICLE_BYTES.most}; split it")
    tokens = _MARKDOWN.parse(rows.decode(raw, where))
    sections = list(_sections(tokens))
    title = sections[0].heading if sections and sections[0].level == 1 else ""
    if not title:
        raise ConfigError(f"{where}: it must begin with a title, a line like `# Returns`")
    found = tuple(passage for section in sections for passage in _cut(path.stem, title, section))
    if not found:
        raise ConfigError(f"{where}: there is a title but no text under it")
    return Article(path.stem, title, _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}), found)


@dataclass(slots=True)
class _Section:
    level: int
    heading: str
    anchor: str
    lines: list[str]


def _sections(tokens: Sequence[Token]) -> Iterator[_Section]:
    """A heading and the lines up to the next. Gives every heading's token its id on the way."""
    current, taken = _Section(0, "", "top", []), {"top"}
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            if current.heading or current.lines:
                yield current
            heading = _plain(tokens[place + 1])
            current = _Section(int(token.tag[1]), heading, _anchor(heading, taken), [])
            token.attrSet("id", current.anchor)
        elif token.type == "inline" and tokens[place - 1].type != "heading_open":
            current.lines += _plain(token).splitlines()
        elif token.type in ("fence", "code_block"):
            current.lines += token.content.splitlines()
    if current.heading or current.lines:
        yield current


def _plain(token: Token) -> str:
    """An inline token without its marks; a line that was only wrapped goes on."""
    pieces = (" " if child.type == "softbreak" else "\n" if child.type == "hardbreak" else child.content
              for child in token.children or ())  # fmt: skip
    return "".join(pieces).strip()


def _anchor(heading: str, taken: set[str]) -> str:
    """The heading as a fragment that no other heading of the article has."""
    base = re.sub(r"[^\w]+", "-", heading.casefold()).strip("-")[:60] or "section"
    anchor, number = base, 2
    while anchor in taken:
        anchor, number = f"{base}-{number}", number + 1
    taken.add(anchor)
    return anchor


def _cut(article: str, title: str, section: _Section) -> Iterator[Passage]:
    """The section's passages: as many whole lines each as fit."""
    most = int(limits.SUPPORT_PASSAGE_CHARS.value)
    held: list[str] = []
    for line in [*_bounded(section.lines, most), None]:
        if held and (line is None or sum(map(len, held)) + len(line) > most):
            yield Passage(article, section.anchor, title, section.heading or title, "\n".join(held))
            held = []
        if line is not None:
            held.append(line)


def _bounded(lines: Sequence[str], most: int) -> Iterator[str]:
    for line in lines:
        yield from (line[start : start + most] for start in range(0, len(line), most))
