"""Keeps what users wrote apart from what the template wrote, through a rendering that knows nothing of it.

Before rendering, every control token inside a user's string is marked with private characters that occur nowhere in
the input; afterwards only unmarked ones are tokens, and the marks are gone:

    a special token         <|im_end|>  ->  <☒|im_end|>     broken: no slicing in a template mends it
    a token that templates
    look for (not special)  </think>    ->  ⊏</think>       so that content.split('</think>')[-1] goes on working
    an edge that the template's own text could complete to a token, "INST" between "[" and "]": a ☒ at that edge
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kelm.text.spec import Added
from kelm.text.splitter import pattern_of

_PRIVATE = range(0xE000, 0xF8FF)


class Marks:
    """Marks for one rendering."""

    def __init__(self, tokens: Mapping[int, Added], text: str) -> None:
        """``tokens``: the control tokens. ``text``: all that will be marked; marks are characters it lacks."""
        used = set(text)
        self._text_follows, self._break = [chr(c) for c in _PRIVATE if chr(c) not in used][:2]
        self._ids = {token.content: token_id for token_id, token in tokens.items()}
        by_length = sorted(tokens.values(), key=lambda token: len(token.content), reverse=True)
        self._special = {token.content: token.special for token in by_length}
        anything = "|".join(re.escape(token.content) for token in by_length) or "(?!)"
        self._token = re.compile(anything)
        marked = f"{self._text_follows}(?:{anything})"
        self._split = re.compile("|".join([marked, *(pattern_of(token) for token in by_length)]))
        self._marks = re.compile(f"[{self._text_follows}{self._break}]")
        self._endings = {text[at:] for text in self._special for at in range(1, len(text))}
        self._beginnings = {text[:at] for text in self._special for at in range(1, len(text))}
        self._longest = max(map(len, self._special), default=0)

    def mark(self, value: Any, prose: bool = False) -> Any:
        """A copy of JSON-like data with its strings marked. ``prose``: no template compares it with a word."""
        if isinstance(value, str):
            return self._mark(value, prose)
        if isinstance(value, Mapping):
            return {self._mark(key, False): self.mark(item, prose) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item, prose) for item in value]
        return value

    def split(self, rendered: str) -> list[str | int]:
        """The rendered text as plain text (marks removed) and the ids of the template's own tokens, in order."""
        parts: list[str | int] = []
        done = 0
        for match in self._split.finditer(rendered):
            if match.lastindex is not None:  # else marked: stays text
                parts += (self._marks.sub("", rendered[done : match.start()]), self._ids[match[match.lastindex]])
                done = match.end()
        parts.append(self._marks.sub("", rendered[done:]))
        return [part for part in parts if part != ""]

    def _mark(self, text: str, prose: bool) -> str:
        inserts: list[tuple[int, bool, str]] = []
        starts, ends = [0], []
        match = self._token.search(text)
        while match:  # overlapping ones too
            at = match.start()
            if len(match[0]) > 1 and self._special[match[0]]:
                inserts.append((at + 1, False, self._break))
            else:
                starts.append(match.end())
                ends.append(at)
            if text[at] in self._special or not self._special[match[0]]:  # one character can't be broken
                inserts.append((at, True, self._text_follows))
            match = self._token.search(text, at + 1)
        for start, end in zip(starts, [*ends, len(text)], strict=True):
            inserts += ((at, False, self._break) for at in self._edges(text, start, end, prose))
        return _insert(text, sorted(inserts))

    def _edges(self, text: str, start: int, end: int, prose: bool) -> Iterator[int]:
        """Where to break text[start:end] off what the template may put beside it, spaces stripped or not."""
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        longest = min(self._longest, end - start)
        inside = prose and 0 < end - start < self._longest and any(text[start:end] in token for token in self._special)
        if inside or any(text[start : start + size] in self._endings for size in range(1, longest + 1)):
            yield start
        if inside or any(text[end - size : end] in self._beginnings for size in range(1, longest + 1)):
            yield end


def _insert(text: str, inserts: list[tuple[int, bool, str]]) -> str:
    pieces: list[str] = []
    done = 0
    for at, _, mark in inserts:
        pieces += (text[done:at], mark)
        done = at
    return "".join([*pieces, text[done:]])
