"""Terms, sentences and languages of the support desk's texts."""

from __future__ import annotations

import pytest

from kelm.apps.support.texts import language_of, negated, numbers, sentences, stems, terms
from kelm.apps.support.words import WORDS, preferred


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("How do I return the Cups?", ["return", "cups"]),
        ("JL-204118, please!", ["jl", "204118"]),
        ("I don't know; it isn't café", ["know", "café"]),
        ("怎么退货", ["退货"]),
        ("特快配送多少钱", ["特快", "快配", "配送", "钱"]),
        ("可以用PayPal付款吗", ["用", "paypal", "付款"]),
        ("under_score \"quoted\" (x OR y) NEAR/2 a*", ["under", "score", "quoted", "x", "y", "near", "2"]),
        ("的吗 how to ?!", []),
    ],
)  # fmt: skip
def test_terms(text: str, wanted: list[str]) -> None:
    assert terms(text) == wanted


def test_stems_make_the_forms_of_a_word_one() -> None:
    assert stems("ship shipping shipped ships") == {"ship", "shipp"}
    assert stems("cover covers covered") == {"cover"}
    assert stems("bus gas is") == {"bus", "gas"}, "short words keep their letters"
    assert stems("退货政策") == {"退货", "货政", "政策"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It costs 3.90 euro. From 50 euro it is free!", ["It costs 3.90 euro.", "From 50 euro it is free!"]),
        ("First line\n- item one\n- Item two. And more\n2. third", ["First line", "item one", "Item two.", "And more",
                                                                       "third"]),
        ("运费3.90欧元，满50欧元免运费。特快9.90欧元。", ["运费3.90欧元，满50欧元免运费。", "特快9.90欧元。"]),
        ("Write to a@b.example. \"Quoted\" too? (Yes.)", ["Write to a@b.example.", '"Quoted" too?', "(Yes.)"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text: str, wanted: list[str]) -> None:
    assert sentences(text) == wanted


def test_a_sentence_is_shown_as_it_stands() -> None:
    text = "One  two,\tthree. Four?  Five!"
    assert all(sentence in text for sentence in sentences(text))


@pytest.mark.parametrize(
    "text", ["It is not free", "You can't", "never", "没有运费", "不能退货", "without tax", "CANNOT"]
)
def test_negated(text: str) -> None:
    assert negated(text)


@pytest.mark.parametrize("text", ["It is free", "note", "notable", "可以退货", "know"])
def test_not_negated(text: str) -> None:
    assert not negated(text)


def test_numbers() -> None:
    assert numbers("3.90 euro, 14:00 and 1,000; JL-12.") == {"3.90", "14:00", "1,000", "12"}


def test_language() -> None:
    assert language_of("怎么用PayPal") == "zh"
    assert language_of("What does 退货 mean in your long policy text?") == "en"
    assert language_of("12345 !?", "zh") == "zh"


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB,zh;q=0.9", "en"), ("de,fr", "en"), ("", "en"), ("de,zh;q=0.1", "zh"),
        ("en;q=0.2, zh;q=0.7", "zh"), ("zh;q=0", "en"), ("zh;q=x", "en"), ("*", "en"), ("," * 5000 + "zh", "en"),
    ],
)  # fmt: skip
def test_the_language_that_a_browser_prefers(header: str, wanted: str) -> None:
    assert preferred(header, "en") == wanted


def test_everything_is_said_in_both_languages() -> None:
    assert set(WORDS["en"]) == set(WORDS["zh"])
    for words in WORDS.values():
        assert all(text.strip() for text in words.values())
