"""Interpolated Kneser-Ney smoothing of n-grams (Chen and Goodman 1999, section 2.7): the baseline that a language
model of any kind has to beat on the text that neither has seen.

One absolute discount for each order, D = n1 / (n1 + 2 n2). An n-gram of tokens is one int64 key, so counts are
sorted arrays and a lookup is a binary search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelm.tune.documents import Document

Keys = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """Counts of one order: raw for the highest, continuations (distinct left neighbours) below."""

    grams: Keys  # sorted
    counts: Floats
    contexts: Keys  # sorted
    totals: Floats
    kinds: Floats
    """How many distinct tokens follow a context."""
    discount: float


class KneserNey:
    """An n-gram model over token ids. ``vocab ** order`` must fit in 63 bits."""

    def __init__(self, documents: Sequence[Document], vocab: int, order: int = 5) -> None:
        self._vocab, self._order = vocab, order
        if order * math.log2(vocab) >= 63:
            raise ValueError(f"{order}-grams over {vocab} tokens do not fit in 63 bits")
        grams, counts = np.unique(np.concatenate([self._grams(doc, order) for doc in documents]), return_counts=True)
        self._orders: list[_Order] = []
        for n in range(order, 0, -1):
            self._orders.insert(0, self._level(grams, counts.astype(np.float64)))
            # what is left of an n-gram without its first token, once for each different first token
            grams, counts = np.unique(grams % vocab ** (n - 1), return_counts=True)

    def _grams(self, document: Document, order: int) -> Keys:
        """Keys of the n-grams that end at each token but the first; the start is padded with the first token."""
        ids = document.ids.astype(np.int64)
        padded = np.concatenate([np.full(order - 2, ids[0]), ids]) if order > 1 else ids[1:]
        keys = np.zeros(len(padded) - order + 1, np.int64)
        for offset in range(order):
            keys = keys * self._vocab + padded[offset : offset + len(keys)]
        return keys

    def _level(self, grams: Keys, counts: Floats) -> _Order:
        contexts, starts = np.unique(grams // self._vocab, return_index=True)
        totals = np.add.reduceat(counts, starts)
        kinds = np.diff(np.append(starts, len(grams))).astype(np.float64)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        return _Order(grams, counts, contexts, totals, kinds, discount)

    def probabilities(self, document: Document) -> Floats:
        """Of every token but the first, given those before it."""
        keys = self._grams(document, self._order)
        p = np.full(len(keys), 1.0 / self._vocab)
        for n, level in enumerate(self._orders, 1):
            gram = keys % self._vocab**n
            count, total, kinds = (
                _look_up(level.grams, level.counts, gram),
                _look_up(level.contexts, level.totals, gram // self._vocab),
                _look_up(level.contexts, level.kinds, gram // self._vocab),
            )
            seen = total > 0
            safe = np.where(seen, total, 1.0)
            mixed = np.maximum(count - level.discount, 0) / safe + level.discount * kinds / safe * p
            p = np.where(seen, mixed, p)
        return p

    def bits_per_byte(self, documents: Sequence[Document]) -> float:
        bits = -sum(float(np.log2(self.probabilities(document)).sum()) for document in documents)
        return bits / sum(document.text_bytes for document in documents)


def _look_up(keys: Keys, values: Floats, wanted: Keys) -> Floats:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0.0)
