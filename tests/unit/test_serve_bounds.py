"""Every field of every body at, below and above its bound, generated from the tables; no field is ignored."""

from __future__ import annotations

import json
import math
import time
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from typing import Any, get_type_hints

import pytest

from kelm import limits
from kelm.errors import InvalidRequest, UnsupportedField
from kelm.serve import fields
from kelm.serve.body import check_shape, parse_json
from kelm.serve.checks import Check, Flag, ListOf, Mapping, Number, OneOf, Only, Text
from kelm.serve.inputs import Documents, Ids, Prompts
from kelm.serve.requests import TABLES, ChatRequest, CompletionRequest, EmbeddingRequest, JobRequest

REQUIRED: dict[str, Any] = {
    "model": "toy",
    "prompt": "a",
    "messages": [{"role": "user", "content": "a"}],
    "input": "a",
    "text_1": "a",
    "text_2": "a",
    "query": "a",
    "documents": ["a"],
    "tokens": [1],
    "spec": {"kind": "tune", "base": "toy", "variant": "v", "file": "rows.csv"},
    "priority": 1,
}


def body_of(kind: type[Any], **more: Any) -> dict[str, Any]:
    needed = [field.name for field in dataclass_fields(kind) if field.default is MISSING]
    return {name: REQUIRED[name] for name in needed} | more


def every(*checks: type[Any]) -> list[Any]:
    return [
        pytest.param(kind, name, check, id=f"{kind.__name__}.{name}")
        for kind in TABLES
        for name, check in fields.table(kind).items()
        if isinstance(check, checks)
    ]


def refused(kind: type[Any], name: str, value: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        fields.parse(kind, json.loads(json.dumps(body_of(kind, **{name: value}))))
    message = caught.value.message
    assert name in message, f"{message!r} does not name the field"
    assert caught.value.param is not None
    assert caught.value.param.startswith(name)
    assert len(message) < 400
    return caught.value


@pytest.mark.parametrize(("kind", "name", "check"), every(Number))
def test_numbers(kind: type[Any], name: str, check: Number) -> None:
    bound = check.bound
    inside = [bound.least, bound.most] if bound.integer else [bound.least, bound.most, (bound.least + bound.most) / 2]
    for value in inside:
        parsed = fields.parse(kind, body_of(kind, **{name: value}))
        assert getattr(parsed, name) == value
    step = 1 if bound.integer else 1e-6 + abs(bound.most) * 1e-9
    outside = [bound.least - step, bound.most + step, -(2**63) - 1, 2**63, 2**200, -1e308, 1e308]
    kinds = [math.nan, math.inf, -math.inf, "1", "", True, False, [1], {"a": 1}, *([1.5] if bound.integer else [])]
    for value in outside:
        message = refused(kind, name, value).message
        if isinstance(value, int) or not bound.integer:
            assert str(bound.least) in message, "the bound is named"
            assert str(bound.most) in message
    for value in kinds:
        refused(kind, name, value)


@pytest.mark.parametrize(("kind", "name", "check"), every(Text))
def test_texts(kind: type[Any], name: str, check: Text) -> None:
    most = int(check.bound.most)
    assert getattr(fields.parse(kind, body_of(kind, **{name: "é" * (most // 2)})), name) == "é" * (most // 2)
    error = refused(kind, name, "é" * (most // 2) + "xx")
    assert str(most + 2) in error.message, "bytes are counted, not characters"
    for value in (1, True, ["a"], {"a": "b"}, "\ud800"):
        refused(kind, name, value)


@pytest.mark.parametrize(("kind", "name", "check"), every(Flag))
def test_flags(kind: type[Any], name: str, check: Flag) -> None:
    for value in (True, False):
        assert getattr(fields.parse(kind, body_of(kind, **{name: value})), name) is value
    for value in (0, 1, "true", "", [], {}, 1.0):
        refused(kind, name, value)


@pytest.mark.parametrize(("kind", "name", "check"), every(OneOf, Only))
def test_words(kind: type[Any], name: str, check: OneOf | Only) -> None:
    allowed = check.words if isinstance(check, OneOf) else check.values
    for value in allowed:
        assert getattr(fields.parse(kind, body_of(kind, **{name: value})), name) == value
    for value in ("flex", True, 1, 0, ["audio"], {"type": "json_object"}, "x" * 10_000):
        if not any(type(value) is type(each) and value == each for each in allowed):
            refused(kind, name, value)


@pytest.mark.parametrize(("kind", "name", "check"), every(ListOf, Ids, Documents, Prompts))
def test_lists(kind: type[Any], name: str, check: Any) -> None:
    item: Any = 3 if isinstance(check, Ids) else "x"
    most = int(check.count.most)
    if most <= 4096:
        assert len(getattr(fields.parse(kind, body_of(kind, **{name: [item] * most})), name)) == most
        assert str(most) in refused(kind, name, [item] * (most + 1)).message
    if check.count.least > 0:
        refused(kind, name, [])
    for value in (True, 1, {"a": 1}, [item, None], [item, True], [item, 1.5], [[[1]]], [{}]):
        refused(kind, name, value)


@pytest.mark.parametrize(("kind", "name", "check"), every(Mapping))
def test_mappings(kind: type[Any], name: str, check: Mapping) -> None:
    item: Any = 1 if isinstance(check.item, Number) else "x"
    most = int(check.count.most)
    assert len(getattr(fields.parse(kind, body_of(kind, **{name: {str(i): item for i in range(most)}})), name)) == most
    refused(kind, name, {str(i): item for i in range(most + 1)})
    for value in (True, [], "a", {"1": [1]}, {"1": None}):
        refused(kind, name, value)


def test_logit_bias_keys_are_token_ids() -> None:
    for key in ("a", "-1", "1.0", " 1", "１", "", "9" * 30):
        refused(CompletionRequest, "logit_bias", {key: 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "tun"}, "spec.kind"),
        ({"kind": None}, "spec.kind"),
        ({"kind": ["tune"]}, "spec.kind"),
        ({"epoch": 3}, "epochs"),
        ({"epochs": 0}, "spec.epochs must be between 1 and 1000"),
        ({"epochs": True}, "spec.epochs must be an integer"),
        ({"epochs": 2.5}, "spec.epochs must be an integer"),
        ({"learning_rate": 2}, "spec.learning_rate must be between"),
        ({"rank": 10**400}, "spec.rank"),
        ({"seed": -1}, "spec.seed"),
        ({"seed": None}, "spec is not a job"),
        ({"base": None}, "spec is not a job"),
        ({"base": 3}, "spec is not a job"),
        ({"file": "a\nb.csv"}, "spec.file"),
        ({"file": "x" * 5000}, "spec.file"),
    ],
)
def test_specs_of_jobs(change: dict[str, Any], words: str) -> None:
    assert words in refused(JobRequest, "spec", {**REQUIRED["spec"], **change}).message


def test_a_spec_is_an_object() -> None:
    for value in (None, 1, "tune", [], True, {}):
        with pytest.raises(InvalidRequest, match="spec"):
            fields.parse(JobRequest, {"spec": value})


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_no_field_is_unchecked_and_none_is_ignored(kind: type[Any]) -> None:
    checks = fields.table(kind)
    assert set(checks) == {field.name for field in dataclass_fields(kind)} == set(get_type_hints(kind)) - {"REFUSED"}
    assert all(isinstance(check.schema(), dict) for check in checks.values())
    parsed = fields.parse(kind, body_of(kind, **dict.fromkeys(set(checks) - set(body_of(kind)))))
    assert parsed == fields.parse(kind, body_of(kind)), "null is the same as nothing"
    error = refused(kind, "temperatur", 1)
    if "temperature" in checks:
        assert "did you mean temperature" in error.message
    for needed in body_of(kind):
        with pytest.raises(InvalidRequest, match=f"{needed} is required"):
            fields.parse(kind, {name: value for name, value in body_of(kind).items() if name != needed})
    for value in ([], "a", 1, None, True):
        with pytest.raises(InvalidRequest, match="JSON object"):
            fields.parse(kind, value)


def openai_fields(*modules: str) -> set[str]:
    """Every field that the installed client of OpenAI can send."""
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params

    known = {"chat": chat_create_params, "completion": completion_create_params, "embedding": embedding_create_params}
    return {name for module in modules for name in _annotations(known[module])}


def _annotations(module: Any) -> set[str]:
    kinds = [kind for name, kind in vars(module).items() if name.endswith(("Base", "NonStreaming", "Streaming"))]
    kinds += [kind for name, kind in vars(module).items() if name == "EmbeddingCreateParams"]
    return {name for kind in kinds for name in getattr(kind, "__annotations__", {})}


@pytest.mark.parametrize(
    ("kind", "module"),
    [(ChatRequest, "chat"), (CompletionRequest, "completion"), (EmbeddingRequest, "embedding")],
)
def test_every_field_of_openais_is_supported_or_refused_by_name(kind: type[Any], module: str) -> None:
    """A new release of the client with a new field makes this fail, so that somebody decides."""
    known = openai_fields(module)
    assert "model" in known
    assert known <= set(fields.table(kind)) | set(kind.REFUSED)
    for name in kind.REFUSED:
        with pytest.raises(UnsupportedField, match=name):
            fields.parse(kind, body_of(kind, **{name: "x"}))


def test_messages() -> None:
    def parsed(*messages: Any) -> Any:
        return fields.parse(ChatRequest, {"model": "toy", "messages": list(messages)}).messages

    assert parsed({"role": "developer", "content": "a"}) == [{"role": "developer", "content": "a"}]
    wrong: list[Any] = [
        "a", None, [], {"role": "user"}, {"role": "user", "content": None}, {"role": "user", "content": 1},
        {"content": "a"}, {"role": "boss", "content": "a"}, {"role": [], "content": "a"},
        {"role": "tool", "content": "a"}, {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
        {"role": "user", "content": [{"type": "text"}]}, {"role": "user", "content": ["a"]},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]},
        {"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}]},
        {"role": "user", "content": "a", "extra": 1}, {"role": "user", "content": "a", "name": 3},
        {"role": "user", "content": "a", "audio": {"id": "x"}},
    ]  # fmt: skip
    for message in wrong:
        with pytest.raises(InvalidRequest) as caught:
            parsed(message)
        assert caught.value.message.startswith(("messages[0]", "unknown field messages[0]"))
    refused(ChatRequest, "messages", [{"role": "user", "content": ""}] * (int(limits.MESSAGES.most) + 1))
    half = "x" * (int(limits.PROMPT_BYTES.most) // 2 + 1)
    refused(ChatRequest, "messages", [{"role": "user", "content": half}] * 2)


WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_structure() -> None:
    """response_format, tools and tool_choice: what is taken in which form, and what is refused by name."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1]}, "strict": None}}
    for value, kept in (
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        (schema, {"enum": [1]}),
    ):
        assert fields.parse(ChatRequest, body_of(ChatRequest, response_format=value)).response_format == kept
    for value in (1, [], {}, {"type": "text", "x": 1}, {"type": []}, {"type": "json_object", "json_schema": {}},
                  {"type": "json_schema", "json_schema": {"name": "é", "schema": {}}}):  # fmt: skip
        assert refused_by(ChatRequest, "response_format", value)
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    assert fields.parse(ChatRequest, body_of(ChatRequest, tools=[strict])).tools == (WEATHER,)
    for value in (1, {}, [], [1], [WEATHER] * 2, [{**WEATHER, "x": 1}], [{"type": "function", "function": {}}],
                  [{"type": "function", "function": {"name": "x" * 65}}]):  # fmt: skip
        assert refused_by(ChatRequest, "tools", value)
    named = {"type": "function", "function": {"name": "weather"}}
    for value, mode, name in (("none", "none", None), ("auto", "auto", None), (named, "required", "weather")):
        choice = fields.parse(ChatRequest, body_of(ChatRequest, tool_choice=value)).tool_choice
        assert (choice.mode, choice.name) == (mode, name)
    for value in (1, [], {}, "any", {"type": "function"}, {"type": "allowed_tools", "allowed_tools": {}}):
        assert refused_by(ChatRequest, "tool_choice", value)


def refused_by(kind: type[Any], name: str, value: Any) -> bool:
    """Whether the value is refused with a message that begins with the field's name."""
    with pytest.raises(InvalidRequest) as caught:
        fields.parse(kind, body_of(kind, **{name: value}))
    return caught.value.message.removeprefix("unknown field ").startswith(name)


def nested(depth: int, opening: str, closing: str) -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


def test_json_depth_is_counted_outside_of_strings() -> None:
    most = int(limits.JSON_DEPTH.most)
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        parse_json(nested(most, opening, closing))
        with pytest.raises(InvalidRequest, match="nested deeper"):
            parse_json(nested(most + 1, opening, closing))
    parse_json(json.dumps({"a": "[" * 1000 + '\\"' + "{" * 1000, "b": "\\"}).encode())
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"[]" * 100_000 + b"[", b"]["):
        with pytest.raises(InvalidRequest):
            parse_json(body)


def test_strings_are_counted() -> None:
    most = int(limits.JSON_STRINGS.most)
    check_shape(b"[" + b",".join([b'"\\""'] * most) + b"]")
    with pytest.raises(InvalidRequest, match=str(most)):
        check_shape(b"[" + b",".join([b'""'] * (most + 1)) + b"]")


@pytest.mark.parametrize("pair", [b"[]", b"{}", b"[" * 60 + b"]" * 60])
def test_lists_and_objects_are_counted(pair: bytes) -> None:
    """A body full of brackets would hold the loop for seconds."""
    most = int(limits.JSON_CONTAINERS.most)
    each = len(pair) // 2
    parse_json(b"[" + b",".join([pair] * ((most - 1) // each)) + b"]")
    begin = time.perf_counter()
    with pytest.raises(InvalidRequest, match=str(most)):
        parse_json(b"[" + b",".join([pair] * (int(limits.BODY_BYTES.most) // (len(pair) + 1))) + b"]")
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize(
    "body",
    [b"{", b"nul", b"NaN", b"[NaN]", b"Infinity", b"-Infinity", b'{"a":1e999}', b"\xff", b'"\xff"', b'"\\ud800"',
     b'"\\ud800x"', b'"\\udc00"', b"'a'", b"{a:1}", b"[1,]", b'{"a":1}x', b"\x00", b'"\n"', b"1" * 5000],
)  # fmt: skip
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(b"[" + body + b"]")
    assert caught.value.param == "body"


def test_the_checks_are_the_only_ones() -> None:
    """Every class of check above has a test here."""
    tested = {Number, Text, Flag, OneOf, Only, ListOf, Ids, Documents, Prompts, Mapping}
    others = {type(check) for kind in TABLES for check in fields.table(kind).values()} - tested
    assert {kind.__name__ for kind in others} == {
        *("Messages", "Object", "ResponseFormat", "SpecField", "Tools", "ToolChoices"),
    }
    check: Check = fields.table(CompletionRequest)["stream_options"]
    for value in (True, [], {"include_usag": True}, {"include_usage": 1}, {"include_obfuscation": True}):
        with pytest.raises(InvalidRequest):
            check("stream_options", value)
