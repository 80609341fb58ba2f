"""response_format and tools through real clients. The weights are random: what is valid here is so by the masks."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import instructor
import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field, TypeAdapter

from daemon_kit import Daemon
from structured_kit import serving

HELLO: Any = [{"role": "user", "content": "The quick brown fox"}]
SHORT = {"type": "string", "maxLength": 6}


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(tmp_path_factory.mktemp("structured")) as running:
        yield running


@pytest.fixture
def client(structured: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=structured.url + "/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


def closed(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """An object with these properties only, all required unless told otherwise."""
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False, **more}


SCHEMAS: list[dict[str, Any]] = [
    closed({}),
    closed({"a": {"type": "boolean"}}),
    closed({"a": {"type": "null"}, "b": {"const": "é👋"}, "c": {"const": 3}}),
    closed({"kind": {"enum": ["red", "green", 3, None, True]}}),
    closed({"n": {"type": "integer", "minimum": -5, "maximum": 500}}),
    closed({"n": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 100, "multipleOf": 3}}),
    closed({"x": {"type": "number", "minimum": 0, "maximum": 1}}),
    closed({"s": SHORT, "t": {"type": "string", "minLength": 2, "maxLength": 4}}),
    closed({"s": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}),
    closed({"day": {"type": "string", "format": "date"}, "at": {"type": "string", "format": "time"}}),
    closed({"id": {"type": "string", "format": "uuid"}}),
    closed({"l": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 4}}),
    closed({"l": {"type": "array", "items": {"type": "array", "items": SHORT, "maxItems": 2}, "maxItems": 2}}),
    closed({"p": {"type": "array", "prefixItems": [SHORT, {"type": "boolean"}], "items": False, "minItems": 2}}),
    closed({"a": SHORT, "b": {"type": "boolean"}, "c": {"enum": [1]}}, required=["b"]),
    closed({"a": {"type": "boolean"}, "b": {"type": "null"}}, required=[]),
    closed({"o": closed({"o": closed({"o": closed({"a": {"type": "boolean"}})})})}),
    closed({"u": {"anyOf": [{"type": "boolean"}, SHORT, closed({"z": {"type": "null"}})]}}),
    closed({"u": {"type": ["boolean", "null"]}}),
    closed({"u": {"oneOf": [closed({"k": {"const": "a"}}), closed({"k": {"const": "b"}, "v": {"type": "boolean"}})]}}),
    closed({"l": {"$ref": "#/$defs/leaf"}}, **{"$defs": {"leaf": closed({"v": {"type": "boolean"}})}}),
    closed({"all": {"allOf": [{"type": "integer", "minimum": 10}, {"type": "integer", "maximum": 12}]}}),
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 3},
    {"enum": ["yes", "no"]},
    {"type": "object", "properties": {"v": {"enum": [1, 2]}, "w": {"type": "boolean"}}, "required": ["v"]},
    closed({}, patternProperties={"^k[0-9]$": {"enum": [1]}}, maxProperties=2),
]  # fmt: skip


def json_schema(schema: dict[str, Any], **more: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_random_weights_give_valid_objects(client: openai.OpenAI, schema: dict[str, Any]) -> None:
    answer = client.chat.completions.create(
        model="plain", messages=HELLO, seed=4, n=6, max_tokens=150, response_format=json_schema(schema, strict=True)
    )
    assert all(choice.finish_reason == "stop" for choice in answer.choices)
    texts = [choice.message.content or "" for choice in answer.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("temperature", [0, 0.7, 2])
def test_json_object(client: openai.OpenAI, temperature: float) -> None:
    """A free object may run into the length; what ends by itself is an object, what is cut is the start of one."""
    answer = client.chat.completions.create(
        model="plain", messages=HELLO, seed=1, n=8, max_tokens=300, temperature=temperature,
        response_format={"type": "json_object"}, logit_bias=dict.fromkeys(map(str, range(5, 9)), -1),
    )  # fmt: skip
    for choice in answer.choices:
        text = choice.message.content or ""
        assert text.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(text), dict)
        else:
            assert choice.finish_reason == "length"


PERSON = closed({"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 120}})


def test_a_cut_answer_says_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="plain", messages=HELLO, seed=4, max_tokens=5, response_format=json_schema(PERSON)
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content.startswith('{"nam')
    assert answer.usage.completion_tokens == 5


def test_a_stop_string_ends_the_object_early(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="plain", messages=HELLO, seed=4, response_format=json_schema(PERSON), stop='", "age'
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "age" not in answer.choices[0].message.content


def test_text_is_no_constraint(client: openai.OpenAI) -> None:
    asked: Any = {"model": "plain", "messages": HELLO, "seed": 4, "max_tokens": 20}
    free, text = (
        client.chat.completions.create(**asked, **more) for more in ({}, {"response_format": {"type": "text"}})
    )
    assert free.choices[0].message.content == text.choices[0].message.content


def test_parse(client: openai.OpenAI) -> None:
    class Colour(enum.Enum):
        red = "red"
        blue = "blue"

    class Item(BaseModel):
        colour: Colour
        size: Literal[1, 2] | None

    class Order(BaseModel):
        items: list[Item] = Field(max_length=3)
        paid: bool

    answer = client.chat.completions.parse(
        model="plain", messages=HELLO, seed=2, max_tokens=400, response_format=Order, temperature=0.5
    )
    assert isinstance(answer.choices[0].message.parsed, Order)


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like outside",
        "parameters": closed({"city": SHORT, "unit": {"enum": ["c", "f"]}}),
        "strict": True,
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
SCHEMA_OF = {"weather": WEATHER["function"]["parameters"], "clock": closed({})}


def ask(client: openai.OpenAI, model: str, **more: Any) -> ChatCompletion:
    asked: Any = {"model": model, "messages": HELLO, "tools": [WEATHER, CLOCK], "seed": 6, "max_tokens": 200, **more}
    answer = client.chat.completions.create(**asked)
    return TypeAdapter(ChatCompletion).validate_json(answer.model_dump_json(exclude_unset=True))


@pytest.mark.parametrize("model", ["plain", "hermes", "llama", "marked"])
@pytest.mark.parametrize("named", [False, True])
def test_calls_that_are_required(client: openai.OpenAI, model: str, named: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}} if named else "required"
    answer = ask(client, model, tool_choice=choice, n=6, max_tokens=1200)
    seen: Counter[str] = Counter()
    for each in answer.choices:
        assert each.message.content is None
        assert each.finish_reason == "tool_calls"
        for call in each.message.tool_calls:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMA_OF[call.function.name])
            seen[call.function.name] += 1
    assert set(seen) == ({"weather"} if named else {"weather", "clock"})
    ids = [call.id for each in answer.choices for call in each.message.tool_calls]
    assert len(set(ids)) == len(ids)


def test_one_call_where_parallel_is_off(client: openai.OpenAI) -> None:
    def most(**more: Any) -> int:
        answer = ask(client, "hermes", tool_choice="required", n=8, max_tokens=1200, **more)
        return max(len(choice.message.tool_calls) for choice in answer.choices)

    assert most(parallel_tool_calls=False) == 1
    assert most() > 1


@pytest.mark.parametrize("model", ["hermes", "llama"])
@pytest.mark.parametrize("max_tokens", [12, 30, 400])
def test_a_stream_adds_up(client: openai.OpenAI, model: str, max_tokens: int) -> None:
    body: Any = {"tool_choice": "required", "n": 3, "max_tokens": max_tokens}
    whole = ask(client, model, **body)
    asked: Any = {"model": model, "messages": HELLO, "tools": [WEATHER, CLOCK], "seed": 6, **body, "stream": True}
    summed: dict[tuple[int, int], list[str]] = {}
    finish = {}
    deltas = 0
    for chunk in client.chat.completions.create(**asked):
        TypeAdapter(ChatCompletionChunk).validate_json(chunk.model_dump_json(exclude_unset=True))
        for choice in chunk.choices:
            finish[choice.index] = choice.finish_reason
            assert not choice.delta.content
            for call in choice.delta.tool_calls or []:
                deltas += 1
                begun = summed.setdefault((choice.index, call.index), [call.function.name, ""])
                begun[1] += call.function.arguments
    calls = {
        (choice.index, i): [call.function.name, call.function.arguments]
        for choice in whole.choices
        for i, call in enumerate(choice.message.tool_calls or [])
    }
    assert summed == calls
    assert finish == {choice.index: choice.finish_reason for choice in whole.choices}
    if max_tokens > 100:
        assert deltas > len(calls), "arguments come in parts"


def test_a_cut_call_says_length(client: openai.OpenAI) -> None:
    for model in ("hermes", "llama"):
        for size in (4, 20):
            choice = ask(client, model, tool_choice="required", max_tokens=size).choices[0]
            assert choice.finish_reason == "length"
            assert not choice.message.content


def test_none_and_auto(client: openai.OpenAI) -> None:
    """Random weights call nothing by themselves; what an auto answer's text holds is read all the same."""
    free: Any = {"seed": 6, "max_tokens": 40}
    bare = client.chat.completions.create(model="hermes", messages=HELLO, **free).choices[0].message
    none = ask(client, "hermes", tool_choice="none", **free).choices[0].message
    assert (none.content, none.tool_calls) == (bare.content, None)
    for choice in ("auto", None):
        answer = ask(client, "hermes", **free, **({"tool_choice": choice} if choice else {})).choices[0]
        assert (answer.finish_reason, bool(answer.message.content), answer.message.tool_calls) == ("length", True, None)


def test_auto_with_a_format_is_one_or_the_other(client: openai.OpenAI) -> None:
    answer = ask(client, "hermes", response_format=json_schema(PERSON), n=12, max_tokens=1200)
    kinds = set()
    for choice in answer.choices:
        kinds.add(choice.finish_reason)
        if choice.message.content:
            jsonschema.validate(json.loads(choice.message.content), PERSON)
        for call in choice.message.tool_calls or []:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMA_OF[call.function.name])
    assert kinds == {"stop", "tool_calls"}


@pytest.mark.parametrize("model", ["hermes", "llama"])
def test_the_conversation_goes_on(client: openai.OpenAI, model: str) -> None:
    """An answer with calls may be sent back as it came, with what the tools said."""
    message = ask(client, model, tool_choice="required").choices[0].message
    said: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 3}'} for call in message.tool_calls or []
    ]
    final = ask(client, model, messages=[*HELLO, message.model_dump(exclude_none=True), *said], max_tokens=5)
    longer = ask(client, model, messages=HELLO, max_tokens=5)
    assert final.usage.prompt_tokens > longer.usage.prompt_tokens + len(said)
    assert client.chat.completions.create(model=model, messages=[*HELLO, message, *said], max_tokens=2).choices


def test_the_template_sees_the_tools(client: openai.OpenAI) -> None:
    with_tools = ask(client, "hermes", max_tokens=1).usage.prompt_tokens
    without = ask(client, "hermes", max_tokens=1, tool_choice="none").usage.prompt_tokens
    assert with_tools > without + 50


ENDLESS = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"response_format": json_schema({"minimum": 5, "maximum": 3, "type": "integer"})}, "response_format", "than"),
        ({"response_format": json_schema({"enum": []})}, "response_format", "Unsatisfiable"),
        ({"response_format": json_schema({"not": {}})}, "response_format", "not"),
        ({"response_format": json_schema(ENDLESS)}, "response_format", "no text can meet"),
        ({"response_format": json_schema({"$ref": "https://a.b/c"})}, "response_format", "a.b"),
        ({"response_format": json_schema({"type": "objekt"})}, "response_format", "objekt"),
        ({"response_format": json_schema({"enum": ["x" * 300_000]})}, "response_format", "262144"),
        ({"response_format": json_schema({"pattern": "(?=a)b", "type": "string"})}, "response_format", "look-around"),
        ({"response_format": json_schema({"pattern": "(" * 5000 + "a" + ")*" * 5000, "type": "string"})},
         "response_format", "can't be kept"),
        ({"response_format": "json_object"}, "response_format", "object"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema", "required"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
         "response_format.json_schema.name", "letters"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"ignore_eos": True}}, "ignore_eos", "go with"),
        ({"response_format": {"type": "json_object"}, "extra_body": {"min_tokens": 3}}, "min_tokens", "go with"),
        ({"tools": [CLOCK], "tool_choice": "required", "extra_body": {"grammar": "x"}}, "grammar", "go with"),
        ({"tools": []}, "tools", "1 to 128"),
        ({"tools": [CLOCK] * 129}, "tools", "1 to 128"),
        ({"tools": [CLOCK, CLOCK]}, "tools[1].function.name", "twice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].custom", "unknown field"),
        ({"tools": [{"type": "function", "function": {"name": "a.b"}}]}, "tools[0].function.name", "letters"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
         "tools[0].function.parameters", "object"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": ENDLESS}}], "tool_choice": "required"},
         "tools", "no text can meet"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "needs tools"),
        ({"tools": [CLOCK], "tool_choice": "always"}, "tool_choice", "none, auto, required"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0].tool_call_id", "required"),
        ({"messages": [{"role": "user", "content": "3", "tool_call_id": "a"}]}, "messages[0].tool_call_id", "'tool'"),
        ({"messages": [{"role": "user", "content": "3", "tool_calls": [1]}]}, "messages[0].tool_calls", "'assistant'"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "x"}}]}]},
         "messages[0].tool_calls[0].function.arguments", "required"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "string"),
    ],
)  # fmt: skip
def test_what_is_refused(client: openai.OpenAI, body: dict[str, Any], param: str, words: str) -> None:
    asked: Any = {"model": "hermes", "messages": HELLO, "max_tokens": 4, **body}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
    assert words in caught.value.message
    assert client.chat.completions.create(model="hermes", messages=HELLO, max_tokens=1).choices


class User(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=120)
    tags: list[Literal["new", "old"]] = Field(max_length=3)


@pytest.mark.parametrize("model", ["plain", "hermes", "llama"])
@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_instructor(client: openai.OpenAI, model: str, mode: instructor.Mode) -> None:
    asking = instructor.from_openai(client, mode=mode)
    for seed in range(3):
        user = asking.chat.completions.create(
            model=model, messages=HELLO, response_model=User, max_retries=0, seed=seed, max_tokens=300
        )
        assert isinstance(user, User)


def test_instructor_streams(client: openai.OpenAI) -> None:
    asking = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    parts = list(
        asking.chat.completions.create_partial(
            model="hermes", messages=HELLO, response_model=User, seed=1, max_tokens=300, max_retries=0
        )
    )
    assert len(parts) > 3
    User.model_validate(parts[-1].model_dump())


@pytest.mark.parametrize("model", ["plain", "hermes", "llama"])
def test_the_example(structured: Daemon, model: str) -> None:
    """As a user would run it."""
    example = Path(__file__).parents[2] / "examples" / "structured.py"
    assert len(example.read_text().splitlines()) < 80
    done = subprocess.run(
        [sys.executable, str(example), model],
        env={**os.environ, "OPENAI_BASE_URL": structured.url + "/v1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["ticket"].startswith("Ticket(subject=")
    assert said["finish"] == "tool_calls"
    assert said["call"].startswith('weather {"city": "')
    assert "answer" in said


def test_auto_reads_the_calls_that_the_model_makes(client: openai.OpenAI) -> None:
    """The request's own grammar puts the words into the model's mouth; nothing else holds it to a call."""
    words = 'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    said: Any = {"max_tokens": 200, "extra_body": {"grammar": f"start: {json.dumps(words)}"}}
    choice = ask(client, "hermes", **said).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    none = ask(client, "hermes", tool_choice="none", **said).choices[0]
    assert (none.finish_reason, none.message.content, none.message.tool_calls) == ("stop", words, None)
