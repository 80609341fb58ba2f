"""What an answer may say: sentences that a passage supports, and the best sentences of a passage as they stand.

A sentence of a model is shown only when one passage has most of its terms and all of its numbers and names, and denies
nothing that the nearest sentence there doesn't deny, or the other way round. Word by word: a true sentence in other
words is left out, and true halves that are joined wrongly are not seen; but nothing can talk it into anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kelm import limits
from kelm.apps.support.index import Vectors
from kelm.apps.support.texts import names, negated, numbers, pieces, sentences, stems

_OVERLAP = limits.SUPPORT_OVERLAP.value
_FEWEST_TERMS = 2
"""A sentence with fewer says nothing that a passage could support."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A generated answer after the check: ``kept`` in order, and the overlaps of what was left out."""

    kept: list[str]
    left_out: list[float]


def check(answer: str, passages: Sequence[str], *, complete: bool) -> Checked:
    """``complete``: the answer came to its own end, so its last sentence is whole."""
    found = pieces(answer)
    if not complete and found:
        found.pop()
    kept: list[str] = []
    left_out: list[float] = []
    for sentence in found:
        overlap = max((support(sentence, passage) for passage in passages), default=0.0)
        if overlap < _OVERLAP:
            left_out.append(overlap)
        elif sentence not in kept:
            kept.append(sentence)
    return Checked(kept, left_out)


def support(sentence: str, passage: str) -> float:
    """The share of the sentence's terms that the passage has; 0 when a number, a name or a denial is against it."""
    wanted, known = stems(sentence), stems(passage)
    if len(wanted) < _FEWEST_TERMS or not numbers(sentence) <= numbers(passage) or not names(sentence) <= known:
        return 0.0
    nearest = max(sentences(passage), key=lambda other: len(wanted & stems(other)), default="")
    if negated(sentence) != negated(nearest):
        return 0.0
    return len(wanted & known) / len(wanted)


def quotable(passage: str) -> list[str]:
    """The sentences to choose from; none when the passage is short enough to be quoted whole."""
    return [] if len(passage) <= limits.SUPPORT_QUOTED_CHARS.value else sentences(passage)


def quote(question: str, choices: Sequence[str], cosines: Vectors | None = None) -> str:
    """The best of a passage's sentences, in its order. ``cosines``: of the question with each, when it was embedded."""
    asked = stems(question)
    common = [len(asked & stems(sentence)) / max(1, len(asked)) for sentence in choices]
    scores = np.array(common) if cosines is None else 0.5 * np.array(common) + 0.5 * cosines
    best = sorted(np.argsort(-scores, kind="stable")[: int(limits.SUPPORT_QUOTED.value)])
    return "\n".join(choices[place] for place in best)
