"""Passages, full text, vectors and how their ranks are fused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.apps.support import index, passages
from kelm.apps.support.database import SCHEMA
from kelm.apps.support.fusion import K, fuse
from kelm.apps.support.index import Hit
from kelm.apps.support.passages import Passage
from support_kit import EXAMPLE, bag, read_desk


def article(folder: Path, text: str) -> passages.Article:
    (folder / "a.md").write_text(text, encoding="utf-8")
    return passages.read(folder / "a.md")


def test_an_article_is_cut_at_its_headings(tmp_path: Path) -> None:
    found = article(
        tmp_path, "# T\n\nIntro\ngoes on.\n\n## H *one*\n\n- a\n- b `c`\n\n> quote\n\n```\ncode\n```\n## H one\n\nx\n"
    )
    assert found.title == "T"
    assert [(p.anchor, p.heading, p.text) for p in found.passages] == [
        ("t", "T", "Intro goes on."),
        ("h-one", "H one", "a\nb c\nquote\ncode"),
        ("h-one-2", "H one", "x"),
    ]
    for passage in found.passages:
        assert f'id="{passage.anchor}"' in found.html, "the link leads somewhere"


def test_html_and_pictures_of_an_article_are_text(tmp_path: Path) -> None:
    text = (
        "# T\n\n<script>alert(1)</script> ![x](http://evil/x.png) [l](javascript:alert(1))\n\n<img src=x onerror=y>\n"
    )
    found = article(tmp_path, text)
    assert "<script" not in found.html
    assert "<img" not in found.html
    assert 'href="javascript' not in found.html
    assert "<script>alert(1)</script>" in found.passages[0].text


def test_a_long_section_is_cut_at_its_lines(tmp_path: Path) -> None:
    lines = [f"{letter * 400}." for letter in "abcdef"]
    found = article(tmp_path, "# T\n\n" + "\n\n".join(lines) + "\n\n" + "g" * 2500 + "\n")
    assert "\n".join(p.text for p in found.passages).replace("\n", "") == "".join(lines) + "g" * 2500
    assert all(len(p.text) <= 1001 for p in found.passages)
    assert {p.anchor for p in found.passages} == {"t"}


@pytest.fixture
def db() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    return connection


def shelf(*texts: str) -> list[Passage]:
    return [Passage("a", f"p{number}", "Title", f"Heading {number}", text) for number, text in enumerate(texts)]


def found(hits: list[Hit]) -> list[str]:
    return [hit.passage.text for hit in hits]


def test_full_text_alone(db: sqlite3.Connection) -> None:
    index.store(db, shelf("apples and pears", "returns of plums", "退货需要三十天", "plums, plums and more plums"))
    assert found(index.search(db, "Do you RETURN the plum?", None, None))[0] == "returns of plums", (
        "stems, letters' size"
    )
    assert found(index.search(db, "怎么退货", None, None)) == ["退货需要三十天"]
    assert index.search(db, "what about it?", None, None) == []
    hit = index.search(db, "pears from Paris", None, None)[0]
    assert hit.cosine is None and hit.bm25 is not None and hit.bm25 > 0
    assert 0 < hit.confidence == hit.coverage < 1


def test_rare_terms_count_more(db: sqlite3.Connection) -> None:
    index.store(db, shelf("common rare", "common", "common", "common"))
    coverage = {hit.passage.text: hit.coverage for hit in index.search(db, "common rare", None, None)}
    assert coverage["common rare"] == pytest.approx(1)
    weight = np.log(1 + 4 / 4), np.log(1 + 4 / 1)
    assert coverage["common"] == pytest.approx(weight[0] / sum(weight))


def test_both_rankings_count(db: sqlite3.Connection) -> None:
    """Full text says 1, 2; vectors say 2, 3: 2 is first."""
    stored = shelf("kiwi kiwi kiwi", "kiwi lemon melon", "nothing of it")
    index.store(db, stored)
    vectors = np.array([[0, 1], [1, 0], [0.9, 0.1]], np.float32)
    hits = index.search(db, "kiwi", vectors, np.array([[1, 0]], np.float32))
    assert found(hits)[0] == "kiwi lemon melon"
    assert hits[0].cosine == pytest.approx(1)
    assert hits[0].confidence == pytest.approx(0.5 + 0.5 * hits[0].coverage)
    assert {hit.passage.text: hit.bm25 is None for hit in hits}["nothing of it"]


def test_vectors_are_kept_by_text_and_model(db: sqlite3.Connection) -> None:
    stored = shelf("one", "two")
    assert index.missing_vectors(db, "m", stored) == stored
    index.store_vectors(db, "m", stored, np.stack([bag(p.embedded) for p in stored]))
    assert index.missing_vectors(db, "m", stored) == []
    assert index.missing_vectors(db, "n", stored) == stored
    changed = [stored[0], *shelf("one", "three")[1:]]
    assert index.missing_vectors(db, "m", changed) == changed[1:]
    index.store_vectors(db, "m", changed[1:], np.stack([bag("three")]))
    index.drop_vectors(db, "m", changed)
    assert db.execute("SELECT count(*) FROM vectors").fetchone() == (2,)
    np.testing.assert_array_equal(index.load_vectors(db, "m", changed)[1], bag("three"))


def test_the_example_is_found_by_full_text(db: sqlite3.Connection) -> None:
    from kelm.apps.support import desk

    index.store(db, desk.read(EXAMPLE).passages)
    for question, article_name in (
        ("支付宝", "zh-payment"),
        ("matcha fridge", "tea-storage"),
        ("gold rim", "ceramics-care"),
    ):
        assert index.search(db, question, None, None)[0].passage.article == article_name


HOSTILE = st.text(max_size=60) | st.lists(
    st.sampled_from(['"', "'", "*", "(", ")", "OR", "AND", "NOT", "NEAR(", "title:", "^", "-", "+", "{", "}", ";", "--",
                     "\0", "a", "退", "%", "_", "\\", "rowid", "DROP TABLE passages"]), max_size=12
).map(" ".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(question=HOSTILE)
def test_no_question_is_query_syntax(question: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    index.store(connection, shelf("plain words", "or not near title"))
    hits = index.search(connection, question, None, None)
    assert all(0 < hit.coverage <= 1 + 1e-9 for hit in hits), "every hit has a term of the question"
    assert connection.execute("SELECT count(*) FROM passages").fetchone() == (2,)
    connection.close()


def naive(rankings: list[list[int]]) -> list[tuple[int, float]]:
    items = sorted({item for ranking in rankings for item in ranking})
    scores = {item: sum(1 / (K + 1 + r.index(item)) for r in rankings if item in r) for item in items}
    return sorted(((item, scores[item]) for item in items), key=lambda pair: -pair[1])


@given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=8), max_size=4))
def test_fusion_is_the_paper_s(rankings: list[list[int]]) -> None:
    got, wanted = fuse(rankings), naive(rankings)
    assert [item for item, _ in got] == [item for item, _ in wanted]
    assert [score for _, score in got] == pytest.approx([score for _, score in wanted])


def test_the_small_desk_in_chinese(tmp_path: Path, db: sqlite3.Connection) -> None:
    index.store(db, read_desk(tmp_path).passages)
    assert found(index.search(db, "打开的茶叶可以退货吗", None, None)) == ["三十天内可以退货。打开的茶叶不能退货。"]
