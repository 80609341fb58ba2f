"""The passages as they are searched: full text in SQLite (FTS5, bm25), vectors beside it, ranks fused.

A question never becomes query syntax: its terms are letters and digits only (texts.py), each a quoted string, the whole
a parameter of the statement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelm import limits
from kelm.apps.support.database import Connection
from kelm.apps.support.fusion import fuse
from kelm.apps.support.passages import Passage
from kelm.apps.support.texts import terms

Vectors = NDArray[np.float32]
"""[passages, width], rows of length 1."""

_CANDIDATES = int(limits.SUPPORT_CANDIDATES.value)
_WEIGHTS = "2.0, 2.0, 1.0"
"""Of title, heading and body in bm25."""
_COLUMNS = "article, anchor, title, heading, text"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found. ``cosine`` is None without an embedding of the question, ``bm25`` (higher is better) without a
    common term; ``coverage`` is the share of the question's terms that the passage has, rare terms counting more."""

    passage: Passage
    fused: float
    cosine: float | None
    bm25: float | None
    coverage: float

    @property
    def confidence(self) -> float:
        """From 0 to 1. With a cosine both count, because each is fooled by what the other sees through: full text by
        words in another sense, vectors by another thing of the same kind."""
        return self.coverage if self.cosine is None else max(0.0, 0.5 * self.cosine + 0.5 * self.coverage)


def store(connection: Connection, passages: Sequence[Passage]) -> None:
    """Make these the passages, numbered from 1 in their order."""
    connection.execute("DELETE FROM passages")
    connection.execute("DELETE FROM passage_terms")
    for number, each in enumerate(passages, 1):
        row = (number, each.article, each.anchor, each.title, each.heading, each.text)
        connection.execute(f"INSERT INTO passages(id, {_COLUMNS}) VALUES(?, ?, ?, ?, ?, ?)", row)
        body = [" ".join(terms(part)) for part in (each.title, each.heading, each.text)]
        connection.execute("INSERT INTO passage_terms(rowid, title, heading, body) VALUES(?, ?, ?, ?)", (number, *body))


def missing_vectors(connection: Connection, model: str, passages: Sequence[Passage]) -> list[Passage]:
    """The passages that ``model`` has not embedded yet, each text once."""
    known = {row[0] for row in connection.execute("SELECT digest FROM vectors WHERE model = ?", (model,))}
    return list({each.digest: each for each in passages if each.digest not in known}.values())


def store_vectors(connection: Connection, model: str, passages: Sequence[Passage], vectors: Vectors) -> None:
    rows = [(model, each.digest, row.astype("<f4").tobytes()) for each, row in zip(passages, vectors, strict=True)]
    connection.executemany("INSERT OR REPLACE INTO vectors(model, digest, vector) VALUES(?, ?, ?)", rows)


def drop_vectors(connection: Connection, model: str | None, passages: Sequence[Passage]) -> None:
    """Forget what no passage has any more, and what another model made."""
    kept = {each.digest for each in passages}
    rows = connection.execute("SELECT model, digest FROM vectors").fetchall()
    gone = [row for row in rows if row[0] != model or row[1] not in kept]
    connection.executemany("DELETE FROM vectors WHERE model = ? AND digest = ?", gone)


def load_vectors(connection: Connection, model: str, passages: Sequence[Passage]) -> Vectors:
    """All of them must be there."""
    stored = dict(connection.execute("SELECT digest, vector FROM vectors WHERE model = ?", (model,)))
    return np.stack([np.frombuffer(stored[each.digest], "<f4") for each in passages]).astype(np.float32)


def search(connection: Connection, question: str, vectors: Vectors | None, vector: Vectors | None) -> list[Hit]:
    """The best passages, best first. ``vector`` [1, width]: the question's; None when no model can read it."""
    asked = list(dict.fromkeys(terms(question)))[: int(limits.SUPPORT_QUERY_TERMS.value)]
    scores = _full_text(connection, asked)
    cosines: dict[int, float] = {}
    if vectors is not None and vector is not None:
        products = vectors @ vector[0]
        cosines = {int(place) + 1: float(products[place]) for place in np.argsort(-products)[:_CANDIDATES]}
        cosines |= {number: float(products[number - 1]) for number in scores}
    by_cosine = sorted(cosines, key=lambda number: -cosines[number])[:_CANDIDATES]
    found = fuse([list(scores), by_cosine])[: int(limits.SUPPORT_SOURCES.value)]
    coverage = _coverage(connection, asked, [number for number, _ in found])
    return [
        Hit(_passage(connection, number), fused, cosines.get(number), scores.get(number), coverage[number])
        for number, fused in found
    ]


def _full_text(connection: Connection, asked: Sequence[str]) -> dict[int, float]:
    """Passage -> bm25 (SQLite's, with its sign turned), best first."""
    if not asked:
        return {}
    rows = connection.execute(
        f"SELECT rowid, -bm25(passage_terms, {_WEIGHTS}) AS score FROM passage_terms WHERE passage_terms MATCH ? "
        "ORDER BY score DESC, rowid LIMIT ?",
        (" OR ".join(map(_quoted, asked)), _CANDIDATES),
    )
    return {int(number): float(score) for number, score in rows}


def _quoted(term: str) -> str:
    """A string of FTS5's query language: nothing in it is an operator."""
    return '"' + term.replace('"', '""') + '"'


def _coverage(connection: Connection, asked: Sequence[str], numbers: Sequence[int]) -> dict[int, float]:
    """Passage -> the share of the terms that it has, each weighed by log(1 + passages / passages that have it)."""
    count = int(connection.execute("SELECT count(*) FROM passages").fetchone()[0])
    have = dict.fromkeys(numbers, 0.0)
    whole = 0.0
    for term in asked:
        rows = connection.execute("SELECT rowid FROM passage_terms WHERE passage_terms MATCH ?", (_quoted(term),))
        holders = {int(row[0]) for row in rows}
        weight = math.log(1 + count / max(1, len(holders)))
        whole += weight
        for number in holders.intersection(have):
            have[number] += weight
    return {number: value / whole if whole else 0.0 for number, value in have.items()}


def _passage(connection: Connection, number: int) -> Passage:
    return Passage(*connection.execute(f"SELECT {_COLUMNS} FROM passages WHERE id = ?", (number,)).fetchone())
