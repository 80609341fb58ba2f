"""The figures against numbers worked out by hand, and against scikit-learn."""

from __future__ import annotations

import math

import pytest

from kelm.evaluate import metrics


def test_perplexity_by_hand() -> None:
    """Four tokens of probability 1/8 over 6 bytes: 12 bits."""
    got = metrics.perplexity(4 * math.log(1 / 8), tokens=4, text_bytes=6)
    assert got == pytest.approx({"perplexity": 8, "byte_perplexity": 4, "bits_per_byte": 2})


def test_a_perplexity_past_every_number() -> None:
    assert metrics.perplexity(-1e6, 1, 1)["perplexity"] == math.inf


def test_classification_by_hand() -> None:
    """a: 2 of 3 found and 2 of 3 given are right; b: 1 of 2, 1 of 2; c: never found, d: never right, given once."""
    right = ["a", "a", "a", "b", "b", "c"]
    given = ["a", "a", "b", "b", "d", "a"]
    got = metrics.classification(right, given, ["d", "c", "b", "a", "unused"])
    assert [row.label for row in got.classes] == ["d", "c", "b", "a"]
    assert got.confusion == ((0, 0, 0, 0), (0, 0, 0, 1), (1, 0, 1, 0), (0, 0, 1, 2))
    a, b = got.classes[3], got.classes[2]
    assert (a.precision, a.recall, a.f1, a.support) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert (b.precision, b.recall, b.f1, b.support) == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2))
    assert [row.f1 for row in got.classes[:2]] == [0, 0]
    assert got.accuracy == pytest.approx(3 / 6)
    assert got.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0 + 0) / 4)
    assert got.micro_f1 == pytest.approx(3 / 6)


def test_precision_and_recall_are_not_each_other() -> None:
    got = metrics.classification(["a", "b", "b"], ["a", "a", "a"], ["a", "b"]).classes[0]
    assert (got.precision, got.recall, got.f1) == pytest.approx((1 / 3, 1, 1 / 2))


def test_bleu_by_hand() -> None:
    """10 words where the reference has 12: n-gram precisions 9/10, 6/9, 4/8, 2/7, brevity penalty e^(1 - 12/10)."""
    output = "the cat sat on the red mat and then slept"
    reference = "the cat sat on the mat and then it slept all day"
    assert len(output.split()) == 10 and len(reference.split()) == 12
    # 1-grams: all but "red"; 2-grams: the cat, cat sat, sat on, on the, mat and, and then; 3: four; 4: two
    want = 100 * math.exp(1 - 12 / 10) * (9 / 10 * 6 / 9 * 4 / 8 * 2 / 7) ** 0.25
    assert metrics.generation([output], [reference])["bleu"] == pytest.approx(want, rel=1e-9)


def test_rouge_by_hand() -> None:
    """4 words each, of which 'killed' is not 'kill': no stemming."""
    got = metrics.generation(["police kill the gunman"], ["Police killed the gunman!"])
    # words: police, the, gunman of 4 and 4; pairs: 'the gunman' of 3 and 3; subsequence: police the gunman
    assert got["rouge1"] == pytest.approx(3 / 4)
    assert got["rouge2"] == pytest.approx(1 / 3)
    assert got["rougeL"] == pytest.approx(3 / 4)
    swapped = metrics.generation(["the gunman police kill"], ["police kill the gunman"])
    assert (swapped["rouge1"], swapped["rouge2"], swapped["rougeL"]) == pytest.approx((1, 2 / 3, 1 / 2))


def test_chinese_counts_by_characters() -> None:
    """Shared: 4 of 5 characters, 3 of 4 pairs; precisions 4/5, 3/4, 2/3, 1/2, no brevity."""
    got = metrics.generation(["你好世界啊"], ["你好世界吗"])
    assert (got["rouge1"], got["rouge2"], got["rougeL"]) == pytest.approx((4 / 5, 3 / 4, 4 / 5))
    assert got["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_exact_match_ignores_the_space_around() -> None:
    assert metrics.generation([" yes\n", "Yes", "no"], ["yes", "yes", "no "])["exact_match"] == pytest.approx(2 / 3)


def test_means_are_over_the_rows() -> None:
    got = metrics.generation(["a b c d e", "x"], ["a b c d e", "y"])
    assert got["rouge1"] == got["rougeL"] == got["exact_match"] == pytest.approx(1 / 2)
