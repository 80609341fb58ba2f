"""TextStream: text, ids and log-probabilities of one choice are released together, each exactly once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from test_detokenizer_property import pair
from test_stops_property import oracle

from kelm.text.stream import Released, TextStream
from kelm.wire.messages import TokenLogprobs

STOPS = st.lists(st.sampled_from(["\n", "the", " t", "模型", "👋", "is it", "é", "o", "zz"]), max_size=4).map(tuple)


def logprob(token_id: int, place: int) -> TokenLogprobs:
    return TokenLogprobs(token_id, -float(place), 1, [])


def drive(stream: TextStream, ids: list[int], step: int) -> list[Released]:
    out = []
    for at in range(0, len(ids), step):
        part = ids[at : at + step]
        out.append(stream.push(part, [logprob(i, at + n) for n, i in enumerate(part)]))
    return [*out, stream.flush()]


@given(data=st.data(), stops=STOPS, step=st.integers(1, 5), skip=st.booleans())
@settings(max_examples=300, deadline=None)
def test_text_ids_and_logprobs_stay_together(
    data: st.DataObject, stops: tuple[str, ...], step: int, skip: bool
) -> None:
    _, tokenizer = pair(data.draw(st.sampled_from(["byte_level", "byte_fallback", "unigram"])))
    text = data.draw(st.lists(st.sampled_from(["the ", "is it", "模型", "👋é", "\n", "foo "]), max_size=8).map("".join))
    noise = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=6))
    ids = [*tokenizer.encode(text, add_special_tokens=False), *noise]
    stream = TextStream(tokenizer, stops, skip_special_tokens=skip)
    out = drive(stream, ids, step)

    shown, stop, _ = oracle(tokenizer.decode(ids, skip), stops)
    assert "".join(part.text for part in out) == shown
    assert stream.stop == stop
    released = [i for part in out for i in part.ids]
    assert released == ids[: len(released)]
    assert [lp.logprob for part in out for lp in part.logprobs] == [-float(n) for n in range(len(released))]
    assert stream.shown_chars == len(shown)
    if stop is None:
        assert released == ids and stream.used_tokens == len(ids)
    else:
        assert len(released) <= stream.used_tokens <= len(ids)

    offsets = [offset for part in out for offset in part.offsets]
    assert offsets == sorted(offsets) and all(offset <= len(shown) for offset in offsets)
    for place, offset in enumerate(offsets):
        before = tokenizer.decode(ids[:place], skip).removesuffix("\ufffd")
        assert tokenizer.decode(ids, skip)[:offset].startswith(before) or "\ufffd" in tokenizer.decode(ids, skip)


@given(data=st.data(), stops=STOPS)
@settings(max_examples=100, deadline=None)
def test_a_token_is_released_only_when_all_of_it_is_shown(data: st.DataObject, stops: tuple[str, ...]) -> None:
    _, tokenizer = pair("byte_level")
    text = data.draw(st.lists(st.sampled_from(["the", " is", " it", "模型", "👋", "\n"]), max_size=8).map("".join))
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer, stops)
    shown, released = "", 0
    for token_id in ids:
        part = stream.push([token_id])
        shown, released = shown + part.text, released + len(part.ids)
        if stream.stop:
            break
        known = tokenizer.decode(ids[:released])
        assert shown.startswith(known.removesuffix("\ufffd")) and len(known) <= len(shown)


def ids_of(text: str) -> list[int]:
    return pair("byte_level")[1].encode(text, add_special_tokens=False)


def test_the_end_token_is_released_and_says_nothing() -> None:
    _, tokenizer = pair("byte_level")
    end = tokenizer.token_id("</s>")
    assert end is not None
    stream = TextStream(tokenizer, skip_special_tokens=False)
    out = stream.push([*ids_of("hi"), end], stop_token=end)
    assert (out.text, out.ids[-1]) == ("hi", end)
    assert TextStream(tokenizer, skip_special_tokens=False).push([end]).text == "</s>"


def test_tokens_after_a_stop_string_are_neither_shown_nor_counted() -> None:
    _, tokenizer = pair("byte_level")
    stream = TextStream(tokenizer, ("!",))
    hidden = ids_of("bcd")
    first = stream.push(ids_of("a!") + hidden)
    assert (first.text, first.stop) == ("a", "!")
    assert stream.used_tokens == len(ids_of("a!"))
    assert stream.push(hidden) == Released(stop="!")
    assert stream.flush().text == ""


def test_a_token_that_a_stop_string_cuts_is_released() -> None:
    _, tokenizer = pair("byte_level")
    token_id = next(
        i
        for i in range(tokenizer.vocab_size)
        if tokenizer.token_text(i).isalpha() and len(tokenizer.token_text(i)) == 3
    )
    text = tokenizer.token_text(token_id)
    stream = TextStream(tokenizer, (text[1:],))
    assert stream.push([token_id]) == Released(text[0], [token_id], [], [0], text[1:])


def test_the_stop_string_is_shown_when_asked_for() -> None:
    _, tokenizer = pair("byte_level")
    stream = TextStream(tokenizer, ("fo",), include_stop=True)
    assert "".join(stream.push([i]).text for i in ids_of("a foo")) == "a fo"


def test_a_held_back_ending_is_shown_at_the_end() -> None:
    _, tokenizer = pair("byte_level")
    stream = TextStream(tokenizer, ("END",))
    parts = [stream.push([i]) for i in ids_of("so EN")]
    assert "".join(part.text for part in parts) == "so "
    last = stream.flush()
    assert (last.text, last.stop) == ("EN", None)
    assert [i for part in [*parts, last] for i in part.ids] == ids_of("so EN")
