"""How families of chat models write a tool call, as data, and the grammar that holds a model to it.

Hermes, Qwen    <tool_call>\\n{"name": "f", "arguments": {"x": 1}}\\n</tool_call>
Llama 3         {"name": "f", "parameters": {"x": 1}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kelm import limits
from kelm.text import grammar
from kelm.text.schema import Schema, check_ends, spelled
from kelm.text.tokenizer import Tokenizer

_NOTHING: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
"""OpenAI: a function without parameters takes none."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    hint: str
    """What a template of this family says."""
    opens: str
    closes: str
    """Around a call; empty: the whole answer is the call."""
    key: str
    """Of the arguments."""
    many: bool
    """Whether an answer may hold several calls."""


HERMES = CallFormat("<tool_call>", "<tool_call>", "</tool_call>", "arguments", many=True)
LLAMA = CallFormat('"parameters": ', "", "", "parameters", many=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an answer may be: one call or several of ``tools`` (name -> schema of its arguments, None: it has none),
    or, where ``answer`` is a schema, an object instead."""

    tools: Mapping[str, Schema | None]
    many: bool
    answer: Schema | None = None


def of_templates(templates: Mapping[str, str]) -> CallFormat:
    """By the words of the template that renders tools; Hermes' where none gives itself away."""
    source = templates.get("tool_use") or templates.get("default") or ""
    return next((known for known in (HERMES, LLAMA) if known.hint in source), HERMES)


def hides_markers(form: CallFormat, tokenizer: Tokenizer) -> bool:
    """Whether decoding without special tokens would swallow what opens and closes a call."""
    return any(tokenizer.token_id(marker) in tokenizer.special_ids for marker in (form.opens, form.closes) if marker)


def answer_grammar(schema: Schema) -> str:
    """Grammar text of an answer that is one JSON value. Raises InvalidRequest for a schema that no text can meet."""
    check_ends(schema)
    return grammar.from_json_schema(spelled(schema))


def call_grammar(form: CallFormat, offer: Offer, tokenizer: Tokenizer) -> str:
    """Grammar text of an answer that is an ``offer``'s. Raises InvalidRequest as ``answer_grammar``."""
    rules = ["start: answer | calls" if offer.answer is not None else "start: calls"]
    if offer.answer is not None:
        rules.append(_json_rule("answer", offer.answer))
    most = int(limits.TOOL_CALLS.most) - 1 if offer.many and form.many else 0
    rules.append(f'calls: call ("\\n" call){{0,{most}}}' if most else "calls: call")
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(offer.tools))))
    opens, closes = _marker(form.opens, tokenizer), _marker(form.closes, tokenizer)
    line = "\n" if form.opens else ""
    for i, (name, schema) in enumerate(offer.tools.items()):
        head = json.dumps(f'{line}{{"name": "{name}", "{form.key}": ')
        tail = json.dumps("}" + line)
        rules.append(" ".join(filter(None, (f"call_{i}:", opens, head, f"arguments_{i}", tail, closes))))
        rules.append(_json_rule(f"arguments_{i}", _NOTHING if schema is None else schema))
    return grammar.from_lark("\n".join(rules))


def _json_rule(name: str, schema: Schema) -> str:
    check_ends(schema)
    return f"{name}: %json {spelled(schema)}"


def _marker(marker: str, tokenizer: Tokenizer) -> str:
    """The token that the model was trained on where there is one, else its letters."""
    token: Any = tokenizer.token_id(marker) if marker else None
    if token in tokenizer.control_ids:
        return f"<[{token}]>"
    return json.dumps(marker) if marker else ""


def names(tools: Sequence[Mapping[str, Any]]) -> dict[str, Schema | None]:
    """OpenAI's ``tools`` as an Offer's."""
    return {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
