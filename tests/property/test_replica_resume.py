"""A stream that moves between replicas adds up to what one replica would have said, wherever each of them died and
however each of them cut its events."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.errors import WorkerFailed
from kelm.replicas.resume import Delivered

Json = dict[str, Any]
TOKENS = [" the", "qu", "ick", "é", "", "fox\n", " ", "jumps"]


def answer(rng: random.Random, choices: int) -> list[list[tuple[str, int]]]:
    """Of each choice the tokens, (text, id); some have no text of their own."""
    return [[(rng.choice(TOKENS), rng.randrange(99)) for _ in range(rng.randint(0, 12))] for _ in range(choices)]


def cut(rng: random.Random, tokens: list[Any]) -> list[list[Any]]:
    pieces = []
    while tokens:
        size = rng.randint(1, 3)
        pieces.append(tokens[:size])
        tokens = tokens[size:]
    return pieces


def stream(kind: str, said: list[list[tuple[str, int]]], rng: random.Random) -> list[Json]:
    """The events of one replica: its own id, its own cuts, its own order among choices."""
    head = {"id": f"x-{rng.random()}", "created": rng.randrange(10**9), "model": "m", "system_fingerprint": "f"}
    queues = [[_piece(kind, n, part) for part in cut(rng, tokens)] for n, tokens in enumerate(said)]
    for n, queue in enumerate(queues):
        if kind == "chat":
            role = {"role": "assistant", "content": "", "refusal": None}
            queue.insert(0, {"index": n, "delta": role, "logprobs": None, "finish_reason": None})
        queue.append(_end(kind, n))
    events = []
    while any(queues):
        events.append({**head, "choices": [rng.choice([queue for queue in queues if queue]).pop(0)], "usage": None})
    return [*events, {**head, "choices": [], "usage": {"total_tokens": sum(map(len, said))}}]


def _piece(kind: str, index: int, part: list[tuple[str, int]]) -> Json:
    text, ids = "".join(word for word, _ in part), [token for _, token in part]
    rest = {"index": index, "finish_reason": None, "stop_reason": None, "token_ids": ids}
    if kind == "chat":
        entries = [{"token": word, "logprob": -token / 7, "top_logprobs": []} for word, token in part]
        return {**rest, "delta": {"content": text}, "logprobs": {"content": entries, "refusal": None}}
    return {**rest, "text": text, "logprobs": {"tokens": [w for w, _ in part], "token_logprobs": [-i / 7 for i in ids]}}


def _end(kind: str, index: int) -> Json:
    body: Json = {"delta": {}} if kind == "chat" else {"text": ""}
    return {"index": index, **body, "logprobs": None, "finish_reason": "stop", "stop_reason": index}


def summed(events: list[Json]) -> Json:
    """What a client has: per choice the text, ids, log-probabilities, and what came once with how often it came."""
    found: Json = {"ids": {event["id"] for event in events}, "usage": [e["usage"] for e in events if e["usage"]]}
    for event in events:
        for choice in event["choices"]:
            mine = found.setdefault(choice["index"], {"text": "", "ids": [], "probs": [], "once": []})
            delta = choice.get("delta", choice)
            mine["text"] += delta.get("content", delta.get("text")) or ""
            mine["ids"] += choice.get("token_ids") or []
            probs = choice["logprobs"] or {}
            mine["probs"] += probs.get("content") or [
                *zip(probs.get("tokens", ()), probs.get("token_logprobs", ()), strict=True)
            ]
            for name in ("finish_reason", "stop_reason"):
                mine["once"] += [choice[name]] if choice.get(name) is not None else []
            mine["once"] += [delta["role"]] if delta.get("role") else []
    return found


@settings(max_examples=300)
@given(st.sampled_from(["chat", "completion"]), st.integers(1, 3), st.lists(st.floats(0, 1), max_size=4), st.randoms())
def test_it_adds_up(kind: str, choices: int, deaths: list[float], rng: random.Random) -> None:
    said = answer(rng, choices)
    wanted = summed(stream(kind, said, rng))
    delivered, got, first = Delivered(), [], None
    for death in [*deaths, None]:
        events = stream(kind, said, rng)
        first = first or events[0]["id"]
        lives = len(events) if death is None else int(death * len(events))
        for event in events[:lives]:
            before = copy.deepcopy(event)
            fresh = delivered.event(event)
            assert event == before, "what a replica says is not changed in place"
            got += [fresh] if fresh is not None else []
        delivered.again()
        if lives == 0 and not got:
            first = None
    found = summed(got)
    assert len(found.pop("ids")) == 1, "one stream has one id"
    wanted.pop("ids")
    assert found == wanted


CALL = [
    {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}},
    {"index": 0, "function": {"arguments": '{"city": '}},
    {"index": 0, "function": {"arguments": '"Oslo"}'}},
    {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
]


def _calls(parts: list[Json], ident: str) -> list[Json]:
    made = [{"index": 0, "delta": {"content": None, "tool_calls": [copy.deepcopy(part)]}} for part in parts]
    for choice in made:
        for call in choice["delta"]["tool_calls"]:
            if "id" in call:
                call["id"] += ident
    return [{"id": "s", "created": 1, "choices": [choice]} for choice in made]


@pytest.mark.parametrize("death", range(5))
def test_calls_of_tools_go_on(death: int) -> None:
    delivered = Delivered()
    got = [delivered.event(event) for event in _calls(CALL, "1")[:death]]
    delivered.again()
    joined = {"index": 0, "function": {"arguments": '{"city": "Oslo"}'}}  # in other pieces this time
    got += [delivered.event(event) for event in _calls([CALL[0], joined, CALL[3]], "2")]
    calls: dict[int, Json] = {}
    for event in got:
        for call in event["choices"][0]["delta"]["tool_calls"] if event else ():
            mine = calls.setdefault(call["index"], {"ids": [], "names": [], "arguments": ""})
            mine["ids"] += [call["id"]] if call.get("id") else []
            mine["names"] += [call["function"]["name"]] if call["function"].get("name") else []
            mine["arguments"] += call["function"].get("arguments", "")
    assert [(mine["names"], mine["arguments"]) for mine in calls.values()] == [
        (["weather"], '{"city": "Oslo"}'),
        (["time"], "{}"),
    ]
    assert [len(mine["ids"]) for mine in calls.values()] == [1, 1]
    assert calls[0]["ids"] == ["call_a1" if death > 0 else "call_a2"]


def test_another_answer_is_not_glued_on() -> None:
    delivered = Delivered()
    delivered.event({"id": "a", "choices": [{"index": 0, "text": "The quick"}]})
    delivered.again()
    assert delivered.event({"id": "b", "choices": [{"index": 0, "text": "The q"}]}) is None
    with pytest.raises(WorkerFailed, match="another answer"):
        delivered.event({"id": "b", "choices": [{"index": 0, "text": "uack"}]})
