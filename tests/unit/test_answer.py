"""What a choice's chunks become: a message that is the sum of its deltas, and why it ended."""

from __future__ import annotations

from typing import Any

import pytest

from kelm.kernel.requests import Chunk
from kelm.serve.answer import Answer
from kelm.serve.forms import Form
from kelm.text.call_format import HERMES
from kelm.text.call_reader import CallReader

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def chunks(text: str, finish: Any) -> list[Chunk]:
    half = len(text) // 2
    return [Chunk(choice=0, text=text[:half]), Chunk(choice=0, text=text[half:], finish=finish)]


def answer(only_calls: bool = False) -> Answer:
    return Answer(Form(reader=lambda: CallReader(HERMES, ("f",), 8), only_calls=only_calls))


@pytest.mark.parametrize(
    ("text", "finish", "reason", "content", "calls"),
    [
        ("Hello", "stop", "stop", "Hello", []),
        ("", "stop", "stop", "", []),
        (CALL, "stop", "tool_calls", None, ['{"x": 1}']),
        (f"I look. {CALL}", "stop", "tool_calls", "I look.", ['{"x": 1}']),
        (f"{CALL}\n{CALL}", "stop", "tool_calls", None, ['{"x": 1}', '{"x": 1}']),
        (CALL, "length", "length", None, ['{"x": 1}']),
        (f"{CALL}\n<tool_call>\n{{", "length", "length", "<tool_call>\n{", ['{"x": 1}']),
        (CALL.partition("1}")[0], "stop", "stop", None, ['{"x": ']),
        (CALL.partition("1}")[0], "length", "length", None, ['{"x": ']),
    ],
)
def test_how_it_ended_and_what_it_says(
    text: str, finish: str, reason: str, content: str | None, calls: list[str]
) -> None:
    parts = chunks(text, finish)
    whole = answer()
    message = whole.whole(parts)
    assert whole.finish(parts[-1]) == reason
    assert message["content"] == content
    assert [call["function"]["arguments"] for call in message.get("tool_calls", ())] == calls
    streamed = answer()
    deltas = [streamed.delta(part) for part in parts]
    assert streamed.finish(parts[-1]) == reason
    assert streamed.finish(parts[0]) is None
    assert "".join(delta.get("content", "") for delta in deltas) == (content or "")
    told = [""] * len(calls)
    for call in (call for delta in deltas for call in delta.get("tool_calls", ())):
        told[call["index"]] += call["function"]["arguments"]
        assert ("id" in call) == ("name" in call["function"]) == ("type" in call)
    assert told == calls


def test_where_only_calls_may_come_the_start_of_one_is_no_text() -> None:
    assert answer(only_calls=True).whole(chunks("<tool_call>\n{", "length"))["content"] == ""
