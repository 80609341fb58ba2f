"""Several rankings made into one by reciprocal ranks (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

K = 60
"""The paper's constant: how little the first place counts more than the second."""


def fuse(rankings: Iterable[Sequence[int]]) -> list[tuple[int, float]]:
    """(item, score) best first, for rankings of items best first: score = sum of 1 / (K + place), places from 1.

    An item that a ranking lacks gets nothing from it. Equal scores keep the order of the items' numbers.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (K + place)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
