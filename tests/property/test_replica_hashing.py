"""Requests are spread evenly, stay where their prefix is, and move only when they must."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.replicas.hashing import PREFIX_BYTES, order, prefix_key

NAMES = [f"replica-{n}" for n in range(8)]
KEYS = [random.Random(n).randbytes(40) for n in range(4000)]


def first(names: list[str], key: bytes) -> str:
    return order(names, key)[0]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_each_replica_gets_its_part(count: int) -> None:
    taken = Counter(first(NAMES[:count], key) for key in KEYS)
    mean = len(KEYS) / count
    assert all(abs(taken[name] - mean) < 5 * mean**0.5 for name in NAMES[:count]), taken  # five standard deviations


@given(st.binary(max_size=60), st.sets(st.sampled_from(NAMES), min_size=2), st.randoms())
def test_when_one_goes_its_keys_go_to_their_second_choice_and_no_other_moves(
    key: bytes, names: set[str], chance: random.Random
) -> None:
    gone = chance.choice(sorted(names))
    before, after = order(names, key), order(names - {gone}, key)
    assert after == [name for name in before if name != gone]
    assert sorted(before) == sorted(names)


def test_the_keys_of_one_that_went_are_spread_over_the_others() -> None:
    heirs = Counter(order(NAMES, key)[1] for key in KEYS if first(NAMES, key) == "replica-3")
    mean = sum(heirs.values()) / 7
    assert len(heirs) == 7 and all(abs(count - mean) < 5 * mean**0.5 for count in heirs.values()), heirs


@given(st.binary(max_size=60), st.permutations(NAMES))
def test_it_does_not_matter_in_which_order_they_are_told(key: bytes, shuffled: list[str]) -> None:
    assert order(shuffled, key) == order(NAMES, key)


def chat(*messages: tuple[str, str], model: str = "m") -> bytes:
    body = {"model": model, "messages": [{"role": role, "content": text} for role, text in messages]}
    return prefix_key("/v1/chat/completions", body)


TEXT = st.text(max_size=80)


@given(TEXT, TEXT, st.lists(TEXT, max_size=6))
def test_all_turns_of_a_conversation_have_one_key(system: str, question: str, rest: list[str]) -> None:
    opening = [("system", system), ("user", question)]
    later = [(("assistant", "user")[n % 2], text) for n, text in enumerate(rest)]
    assert chat(*opening) == chat(*opening, *later)


def test_other_beginnings_have_other_keys() -> None:
    base = [("system", "You help."), ("user", "one")]
    keys = {
        chat(*base),
        chat(("system", "You do not."), ("user", "one")),
        chat(("system", "You help."), ("user", "two")),
        chat(*base, model="n"),
        chat(("user", "one")),
        prefix_key("/v1/completions", {"model": "m", "prompt": "one"}),
        prefix_key("/v1/completions", {"model": "m", "prompt": "two"}),
        prefix_key("/v1/completions", {"model": "m", "prompt": [1, 2]}),
        prefix_key("/v1/completions", {"model": "m", "prompt": [1, 3]}),
    }
    assert len(keys) == 9


def test_a_long_system_prompt_decides_alone() -> None:
    long = "x" * (2 * PREFIX_BYTES)
    assert chat(("system", long), ("user", "one")) == chat(("system", long), ("user", "two"))
    assert chat(("system", long), ("user", "one")) != chat(("system", "y" + long), ("user", "one"))
    prompts = ["a" * PREFIX_BYTES + tail for tail in ("one", "two")]
    assert len({prefix_key("/v1/completions", {"model": "m", "prompt": prompt}) for prompt in prompts}) == 1


def test_the_first_of_several_prompts_decides() -> None:
    keys = {prefix_key("/v1/completions", {"model": "m", "prompt": p}) for p in ("one", ["one", "two"], ["one"])}
    assert len(keys) == 1


FIELDS = ["model", "messages", "prompt", "input", "role", "content", "seed"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["model", "messages", "prompt", "input", "role", "content", "seed"]


@settings(max_examples=200)
@given(ANY)
def test_whatever_is_sent_has_a_key_of_bounded_length(body: object) -> None:
    assert len(prefix_key("/v1/completions", body)) < PREFIX_BYTES + 2000 + 6 * len(str(body))
