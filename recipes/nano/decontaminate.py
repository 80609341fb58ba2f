"""Keeps the held-out questions out of the corpus: no generated text may share a 5-gram with any of them.

A unit is an English word, a number or one Chinese character; everything is lower-cased and punctuation dropped.
The questions are read by this program only, never by whoever writes the phrases."""

from __future__ import annotations

import json
import re
from pathlib import Path

_UNIT = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
ORDER = 5


def units(text: str) -> tuple[str, ...]:
    return tuple(_UNIT.findall(text.lower().replace("'", "").replace("\u2019", "")))


def grams(text: str) -> set[tuple[str, ...]]:
    found = units(text)
    return {found[i : i + ORDER] for i in range(len(found) - ORDER + 1)}


class Filter:
    """Refuses texts that share a 5-gram with a held-out question, or repeat one that is shorter than that."""

    def __init__(self, paths: list[Path]) -> None:
        lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line]
        questions = [json.loads(line)["question"] for line in lines]
        self._grams = {gram for question in questions for gram in grams(question)}
        self._whole = {units(question) for question in questions}

    def refuses(self, text: str) -> bool:
        return units(text) in self._whole or not self._grams.isdisjoint(grams(text))
