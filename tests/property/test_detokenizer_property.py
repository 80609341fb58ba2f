"""join(stream) == decode(all), for any ids in any split; and decode(all) is what ``tokenizers`` says."""

from __future__ import annotations

import functools
import itertools

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.testing import tokenizers as tiny
from kelm.text import spec as specs
from kelm.text.detokenizer import IncrementalDetokenizer
from kelm.text.files import parse_json
from kelm.text.tokenizer import Tokenizer

TEXTS = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from([*tiny.TEXT, " ", "  ", "é", "👋", "模"])).map("".join)
)


@functools.cache
def pair(family: str) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    theirs = tiny.make(family)
    file = parse_json(theirs.to_str(), "tokenizer.json", specs.TokenizerFile)
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    return theirs, Tokenizer(specs.Spec(file, named, (), None, {}, {}))


def split(ids: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


def stream(tokenizer: Tokenizer, parts: list[list[int]], skip: bool) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, skip)
    return [*(detokenizer.push(part) for part in parts), detokenizer.flush()]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_ids_in_any_split(family: str, data: st.DataObject) -> None:
    _, ours = pair(family)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size + 3), max_size=40))
    skip = data.draw(st.booleans())
    whole = ours.decode(ids, skip)
    for parts in (split(ids, data.draw(st.lists(st.integers(0, 40), max_size=6))), [[i] for i in ids]):
        assert "".join(stream(ours, parts, skip)) == whole


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_ids_decode_as_tokenizers_does_where_the_bytes_are_text(family: str, data: st.DataObject) -> None:
    theirs, ours = pair(family)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=30))
    skip = data.draw(st.booleans())
    expected = theirs.decode(ids, skip_special_tokens=skip)
    if "\ufffd" not in expected or family in ("byte_level", "ignore_merges"):
        assert ours.decode(ids, skip) == expected


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(text=TEXTS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_text_in_any_split_never_shows_a_broken_character(family: str, text: str, data: st.DataObject) -> None:
    _, ours = pair(family)
    ids = ours.encode(text, add_special_tokens=False)
    parts = split(ids, data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    shown = stream(ours, parts, skip=True)
    assert "".join(shown) == ours.decode(ids)
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(shown)
    if family in ("byte_level", "byte_fallback"):
        assert "".join(shown) == text


@given(st.lists(st.integers(0, 255), max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_stream_of_byte_tokens_is_shown_as_soon_as_characters_are_complete(values: list[int]) -> None:
    _, ours = pair("byte_fallback")
    ids = [i for i in (ours.token_id(f"<0x{value:02X}>") for value in [ord("x"), *values]) if i is not None]
    text = "".join(stream(ours, [[i] for i in ids], True))
    assert text == bytes([ord("x"), *values]).decode("utf-8", "replace")


def test_a_character_is_shown_with_its_last_byte_not_later() -> None:
    _, ours = pair("byte_fallback")
    detokenizer = IncrementalDetokenizer(ours)
    ids = [ours.token_id(f"<0x{byte:02X}>") for byte in "鑫鑫".encode()]
    assert [detokenizer.push([i]) for i in ids if i is not None] == ["", "", "鑫", "", "", "鑫"]
