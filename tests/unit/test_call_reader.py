"""Calls are read the same however the text was cut, and nothing that the model said is lost or made up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.text.call_format import HERMES, LLAMA, CallFormat
from kelm.text.call_reader import CallReader

TOOLS = ("f", "g", "na\"me")  # fmt: skip
ARGUMENTS = {"x": 'a "}" {\\', "y": [1, {"z": None}], "s": "</tool_call>"}
CALL = json.dumps({"name": "f", "arguments": ARGUMENTS})
G = '{"name": "g", "arguments": {}}'


def hermes(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def read(form: CallFormat, parts: list[str], most: int = 8) -> tuple[str, list[list[str]], bool]:
    """(text, [name, arguments] of each call, ended)."""
    reader = CallReader(form, TOOLS, most)
    pieces = [piece for part in parts for piece in reader.push(part)] + reader.flush()
    calls: list[list[str]] = []
    for piece in pieces:
        if piece.name is not None:
            assert piece.call == len(calls)
            calls.append([piece.name, ""])
        if piece.call is not None:
            calls[piece.call][1] += piece.arguments
    assert reader.calls == len(calls)
    return "".join(piece.content for piece in pieces), calls, reader.ended


F_ARGUMENTS = json.dumps(ARGUMENTS)
TABLE: list[tuple[CallFormat, str, str, list[list[str]]]] = [
    (HERMES, "", "", []),
    (HERMES, "Just text, a < b <tool", "Just text, a < b <tool", []),
    (HERMES, "  \n", "  \n", []),
    (HERMES, hermes(CALL), "", [["f", F_ARGUMENTS]]),
    (HERMES, f"I look.\n{hermes(CALL)}\n{hermes(G)}", "I look.", [["f", F_ARGUMENTS], ["g", "{}"]]),
    (HERMES, f"{hermes(G)} Done.", " Done.", [["g", "{}"]]),
    (HERMES, hermes('{"arguments": {"a": 1}, "name": "g"}'), "", [["g", '{"a": 1}']]),
    (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "g"}', "", [["g", '{"a": 1}']]),
    (HERMES, hermes('{"name": "unknown", "arguments": {}}'), hermes('{"name": "unknown", "arguments": {}}'), []),
    (HERMES, hermes("no json"), hermes("no json"), []),
    (HERMES, hermes('{"name": "g", "arguments": 3}') + "x", hermes('{"name": "g", "arguments": 3}') + "x", []),
    (HERMES, hermes('{ "name" : "na\\"me" , "arguments" : { } }'), "", [['na"me', "{ }"]]),
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {"x": "cut', "", [["f", '{"x": "cut']]),
    (HERMES, '<tool_call>\n{"name": "f', '<tool_call>\n{"name": "f', []),
    (LLAMA, '{"name": "f", "parameters": {"x": 1}}', "", [["f", '{"x": 1}']]),
    (LLAMA, ' \n{"name": "g", "parameters": {}}; {"name": "g", "parameters": {}}', "", [["g", "{}"], ["g", "{}"]]),
    (LLAMA, 'It is {"name": "f", "parameters": {}}', 'It is {"name": "f", "parameters": {}}', []),
    (LLAMA, '{"temperature": {"name": 1}} ok', '{"temperature": {"name": 1}} ok', []),
    (LLAMA, '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
    (LLAMA, '{"parameters": {}, "name": "g"}', "", [["g", "{}"]]),
    (LLAMA, "{}", "{}", []),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "said", "calls"), TABLE)
def test_what_is_read(form: CallFormat, text: str, said: str, calls: list[list[str]]) -> None:
    for parts in ([text], list(text)):
        assert read(form, parts)[:2] == (said, calls)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TABLE), st.data())
def test_any_split_reads_the_same(row: Any, data: st.DataObject) -> None:
    form, text, *_ = row
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(form, parts) == read(form, [text])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from((HERMES, LLAMA)), st.text('<tool_cal>/{}"name:,arguments parameters;\\ \nfg', max_size=80))
def test_rubbish_is_text(form: CallFormat, text: str) -> None:
    """Without a call, every character comes out again; bare forms may lose the space around a brace."""
    said, calls, _ = read(form, list(text))
    if not calls:
        assert said.split() == text.split()


def test_arguments_stream_as_they_come() -> None:
    reader = CallReader(HERMES, TOOLS, 8)
    assert reader.push('<tool_call>\n{"name": "f", "arguments"') == []
    assert [piece.name for piece in reader.push(': {"x"')] == ["f", None]
    assert [piece.arguments for piece in reader.push(": 1")] == [": 1"]
    assert not reader.ended
    assert [piece.arguments for piece in reader.push("}}\n</to")] == ["}"]
    assert reader.ended


def test_text_is_not_held_longer_than_a_mark() -> None:
    reader = CallReader(HERMES, TOOLS, 8)
    assert [piece.content for piece in reader.push("one <tool")] == ["one"]
    assert [piece.content for piece in reader.push("box")] == [" <toolbox"]


def test_past_the_most_calls_nothing_is_read() -> None:
    assert read(HERMES, [hermes(G) + "\n" + hermes(CALL) + "more"], most=1)[:2] == ("", [["g", "{}"]])
