"""Which family a template belongs to, what its grammar allows, and schemas that nothing finite meets."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kelm.errors import InvalidRequest
from kelm.testing import tokenizers
from kelm.text.call_format import HERMES, LLAMA, CallFormat, Offer, answer_grammar, call_grammar, of_templates
from kelm.text.grammar import GrammarCompiler
from kelm.text.schema import check_ends
from kelm.text.tokenizer import Tokenizer

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
TOOLS: dict[str, Any] = {
    "f": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False},
    "g": None,
}


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(tokenizers.write(Path(tempfile.mkdtemp()), "byte_level"))


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer())


def fits(grammar: str, text: str) -> bool:
    """Whether the whole text, with the family's own tokens where it has them, is a sentence of the grammar."""
    state = compiler().start(grammar)
    ids = tokenizer().encode(text, add_special_tokens=False, allow=("<tool_call>", "</tool_call>"))
    try:
        for token in ids:
            state.accept(token)
    except InvalidRequest:
        return False
    return state.may_end


@pytest.mark.parametrize(
    ("templates", "form"),
    [
        ({"default": "... return within <tool_call></tool_call> ..."}, HERMES),
        ({"default": "{{- '\"parameters\": ' }}"}, LLAMA),
        ({"default": '<tool_call> and "parameters": too'}, HERMES),
        ({"default": "<tool_call>", "tool_use": '{"name": function name, "parameters": dictionary}'}, LLAMA),
        ({"default": "{{ messages }}"}, HERMES),
        ({}, HERMES),
    ],
)
def test_the_template_tells_the_family(templates: dict[str, str], form: CallFormat) -> None:
    assert of_templates(templates) is form


F = '<tool_call>\n{"name": "f", "arguments": {"x": 12}}\n</tool_call>'
G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("form", "offer", "text", "allowed"),
    [
        (HERMES, Offer(TOOLS, many=True), F, True),
        (HERMES, Offer(TOOLS, many=True), f"{F}\n{G}", True),
        (HERMES, Offer(TOOLS, many=False), f"{F}\n{G}", False),
        (HERMES, Offer({"g": None}, many=True), F, False),
        (HERMES, Offer(TOOLS, many=True), F.replace("12", '"12"'), False),
        (HERMES, Offer(TOOLS, many=True), G.replace("{}", '{"a": 1}'), False),
        (HERMES, Offer(TOOLS, many=True), "no", False),
        (HERMES, Offer(TOOLS, many=True), '{"y": 1}', False),
        (HERMES, Offer(TOOLS, many=True, answer={"type": "object"}), '{"y": 1}', True),
        (HERMES, Offer(TOOLS, many=True, answer={"type": "object"}), F, True),
        (LLAMA, Offer(TOOLS, many=True), '{"name": "f", "parameters": {"x": -3}}', True),
        (LLAMA, Offer(TOOLS, many=True), '{"name": "f", "arguments": {"x": -3}}', False),
        (LLAMA, Offer(TOOLS, many=True), '{"name": "g", "parameters": {}}\n{"name": "g", "parameters": {}}', False),
    ],
)
def test_what_a_call_may_be(form: CallFormat, offer: Offer, text: str, allowed: bool) -> None:
    assert fits(call_grammar(form, offer, tokenizer()), text) is allowed


def test_the_models_own_token_opens_a_call() -> None:
    state = compiler().start(call_grammar(HERMES, Offer(TOOLS, many=True), tokenizer()))
    opening = [i for i in range(tokenizer().vocab_size) if state.bitmask()[i // 32] >> (i % 32) & 1]
    assert opening == [tokenizer().token_id("<tool_call>")]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"$defs": {"node": NODE}, "anyOf": [{"$ref": "#/$defs/node"}, {"allOf": [{"type": "object"}, {"$ref": "#"}]}]},
        {"$defs": {"node": NODE}, "type": "array", "minItems": 1, "items": {"$ref": "#/$defs/node"}},
        {"$defs": {"node": NODE}, "type": "array", "minItems": 1, "prefixItems": [{"$ref": "#/$defs/node"}]},
        {"$defs": {"a/b": {"$ref": "#/$defs/c~d"}, "c~d": {"$ref": "#/$defs/a~1b"}}, "$ref": "#/$defs/a~1b"},
    ],
)
def test_what_never_ends_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="no text can meet"):
        check_ends(schema)


OPTIONAL = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
NULLABLE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["next"],
}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"$defs": {"node": OPTIONAL}, "$ref": "#/$defs/node"},
        {"$defs": {"node": NULLABLE}, "$ref": "#/$defs/node"},
        {"$defs": {"node": NODE}, "type": "array", "items": {"$ref": "#/$defs/node"}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": {"type": "null"}}, "$ref": "#/$defs/a"},
    ],
)
def test_what_ends_is_not(schema: dict[str, Any]) -> None:
    check_ends(schema)
    compiler().check(answer_grammar(schema))


def test_a_schema_wide_and_deep_is_looked_at_quickly() -> None:
    chain = {f"n{i}": {"$ref": f"#/$defs/n{i + 1}"} for i in range(3000)}
    check_ends({"$defs": {**chain, "n3000": {"type": "null"}}, "$ref": "#/$defs/n0"})


def test_spelling_is_ours_whatever_the_schema_says() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "x-guidance": {"bad": 1}}
    grammar = answer_grammar({**schema, "additionalProperties": False})
    assert fits(grammar, json.dumps({"a": 1}))
    assert not fits(grammar, '{ "a":1}')


def test_objects_that_list_their_properties_get_no_others() -> None:
    listed = {"type": "object", "properties": {"a": {"const": 1}}}
    for schema, text, allowed in (
        (listed, '{"a": 1}', True),
        (listed, '{"a": 1, "b": 2}', False),
        ({**listed, "additionalProperties": True}, '{"a": 1, "b": 2}', True),
        ({"type": "object"}, '{"b": 2}', True),
        ({"type": "array", "items": listed}, '[{"b": 2}]', False),
        ({"$defs": {"x": listed}, "anyOf": [{"$ref": "#/$defs/x"}]}, '{"b": 2}', False),
        ({"allOf": [listed, {"type": "object", "properties": {"b": {"const": 2}}}]}, '{"a": 1, "b": 2}', True),
        ({"const": {"type": "object", "properties": {}}}, '{"type": "object", "properties": {}}', True),
        ({**listed, "required": ["b"]}, '{"a": 1, "b": 2}', True),
    ):
        assert fits(answer_grammar(schema), text) is allowed, schema
