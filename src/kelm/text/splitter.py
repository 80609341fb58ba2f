"""Finds added tokens in trusted text, the way ``tokenizers`` does: leftmost, longest, with their flags."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kelm.text.spec import Added


class Splitter:
    """Cuts a text at a set of added tokens."""

    def __init__(self, tokens: Mapping[int, Added]) -> None:
        self._ids = {token.content: token_id for token_id, token in tokens.items()}
        longest_first = sorted(tokens.values(), key=lambda token: len(token.content), reverse=True)
        self._pattern = re.compile("|".join(pattern_of(token) for token in longest_first) or "(?!)")

    def split(self, text: str) -> list[str | int]:
        """Plain text and the ids of the tokens found between, in order."""
        parts: list[str | int] = []
        end = 0
        for match in self._pattern.finditer(text):
            parts += (text[end : match.start()], self._ids[match[match.lastindex or 0]])
            end = match.end()
        return [part for part in [*parts, text[end:]] if part != ""]


def pattern_of(token: Added) -> str:
    """A pattern with one group, the token, that also takes the spaces the token swallows. Linear in a run of them."""
    pattern = f"({re.escape(token.content)})"
    if token.single_word:
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return (r"(?:(?<!\s)\s+)?" if token.lstrip else "") + pattern + (r"\s*" if token.rstrip else "")
