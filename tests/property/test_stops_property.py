"""A stop scanner against the naive oracle, on alphabets small enough that stops overlap all the time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.text.stops import StopScanner

SMALL = st.text(alphabet="ab\n模", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n模", min_size=1, max_size=5), max_size=5).map(tuple)


def oracle(full: str, stops: tuple[str, ...]) -> tuple[str, str | None, int]:
    """(text before the stop, the stop, where it ends): first to be completed, then first to begin."""
    found = [(full.find(stop) + len(stop), full.find(stop), stop) for stop in stops if stop in full]
    if not found:
        return full, None, len(full)
    end, start, stop = min(found)
    return full[:start], stop, end


def chunks(full: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(full)) for cut in cuts), len(full)]
    return [full[a:b] for a, b in itertools.pairwise(edges)]


@given(SMALL, STOPS, st.lists(st.integers(0, 30), max_size=8), st.booleans())
@settings(max_examples=500, deadline=None)
def test_equals_the_oracle_for_any_split(full: str, stops: tuple[str, ...], cuts: list[int], include: bool) -> None:
    scanner = StopScanner(stops, include)
    shown = "".join(scanner.push(part)[0] for part in chunks(full, cuts)) + scanner.flush()
    before, stop, end = oracle(full, stops)
    assert scanner.hit == stop
    assert shown == (full[:end] if include else before)
    assert scanner.seen_chars == end


@given(SMALL, st.text(alphabet="ab\n模", min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_one_stop_is_a_split(full: str, stop: str) -> None:
    scanner = StopScanner((stop,))
    assert "".join(scanner.push(char)[0] for char in full) + scanner.flush() == full.split(stop)[0]


@given(SMALL, STOPS)
@settings(max_examples=300, deadline=None)
def test_holds_back_the_longest_suffix_that_could_become_a_stop_and_no_more(full: str, stops: tuple[str, ...]) -> None:
    scanner = StopScanner(stops)
    shown = ""
    for at, char in enumerate(full, start=1):
        text, hit = scanner.push(char)
        shown += text
        if hit:
            return
        known = full[:at]
        held = max(
            (n for n in range(at + 1) if any(s.startswith(known[at - n :]) and n < len(s) for s in stops)), default=0
        )
        assert shown == known[: at - held]


@given(SMALL, STOPS)
def test_nothing_need_be_held_back_when_the_stop_is_shown(full: str, stops: tuple[str, ...]) -> None:
    scanner = StopScanner(stops, include=True)
    for char in full:
        if scanner.hit is None:
            assert scanner.push(char)[0] == char


@pytest.mark.parametrize(
    ("text", "stops", "shown", "hit"),
    [
        ("xabcd", ("abcd", "bc"), "xa", "bc"),  # bc is completed first
        ("xabc", ("bc", "abc"), "x", "abc"),  # both at once: the one that began first
        ("aab", ("ab",), "a", "ab"),
        ("x<|", ("<|end|>",), "x<|", None),  # at the end of the stream, a prefix is only text
        ("abc", ("",), "abc", None),
    ],
)
def test_examples(text: str, stops: tuple[str, ...], shown: str, hit: str | None) -> None:
    scanner = StopScanner(stops)
    assert "".join(scanner.push(char)[0] for char in text) + scanner.flush() == shown
    assert scanner.hit == hit


def test_nothing_follows_a_stop() -> None:
    scanner = StopScanner(("!",))
    assert scanner.push("a!b") == ("a", "!")
    assert scanner.push("c") == ("", "!")
    assert scanner.flush() == ""
