"""Classification figures against scikit-learn on any labels; texts against themselves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from kelm.evaluate import metrics

LABELS = ["a", "b", "c", "d"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)
WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "世", "界", "x9"]), min_size=4, max_size=12).map(" ".join)


@given(PAIRS)
def test_figures_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    right, given_ = (list(side) for side in zip(*pairs, strict=True))
    got = metrics.classification(right, given_, LABELS)
    assert got.accuracy == pytest.approx(accuracy_score(right, given_))
    assert got.macro_f1 == pytest.approx(f1_score(right, given_, average="macro", zero_division=0))
    assert got.micro_f1 == pytest.approx(f1_score(right, given_, average="micro", zero_division=0))
    if len(got.classes) > 1:  # of a single one scikit-learn warns
        assert [list(row) for row in got.confusion] == confusion_matrix(right, given_).tolist()
    want = zip(*precision_recall_fscore_support(right, given_, zero_division=0), strict=True)
    for row, figures in zip(got.classes, want, strict=True):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(figures)


@settings(deadline=None)  # the first call imports the scorers
@given(st.lists(WORDS, min_size=1, max_size=5))
def test_a_text_is_itself(texts: list[str]) -> None:
    got = metrics.generation(texts, texts)
    assert got == pytest.approx({"exact_match": 1, "bleu": 100, "rouge1": 1, "rouge2": 1, "rougeL": 1})


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_figures_stay_on_their_scales(pairs: list[tuple[str, str]]) -> None:
    got = metrics.generation([a for a, _ in pairs], [b for _, b in pairs])
    assert 0 <= got.pop("bleu") <= 100 + 1e-9
    assert all(0 <= value <= 1 for value in got.values())
