"""Checks of the fields that give an answer its form: response_format, tools, tool_choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kelm.errors import InvalidRequest, UnsupportedField
from kelm.limits import Bound
from kelm.serve.checks import Flag, JsonSchema, ListOf, Name, Object, OneOf, Schema, check_count, refuse
from kelm.serve.inputs import TEXT

AnswerSchema = dict[str, Any]
Tool = dict[str, Any]
"""OpenAI's, as templates are given it: {"type": "function", "function": {"name": ..., ...}}."""

_NAMED = Object(
    {"name": Name(), "description": TEXT, "schema": JsonSchema(), "strict": Flag()}, required=("name", "schema")
)
_FUNCTION = Object(
    {"name": Name(), "description": TEXT, "parameters": JsonSchema(), "strict": Flag()}, required=("name",)
)
_TOOL = Object({"type": OneOf(("function",)), "function": _FUNCTION}, required=("type", "function"))
_CHOSEN = Object(
    {"type": OneOf(("function",)), "function": Object({"name": Name()}, required=("name",))}, ("type", "function")
)
_MODES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """text, json_object or json_schema -> the schema; None for text. ``strict`` or not, the schema is kept."""

    def __call__(self, field: str, value: object) -> AnswerSchema | None:
        if not isinstance(value, dict):
            raise refuse(field, 'an object like {"type": "json_schema", "json_schema": {...}}', value)
        kind = OneOf(("text", "json_object", "json_schema"))(f"{field}.type", value.get("type"))
        if kind == "json_schema":
            known = Object({"type": OneOf((kind,)), "json_schema": _NAMED}, required=("json_schema",))
            schema: AnswerSchema = known(field, value)["json_schema"]["schema"]
            return schema
        Object({"type": OneOf((kind,))})(field, value)
        return {"type": "object"} if kind == "json_object" else None

    def schema(self) -> Schema:
        return {"type": "object", "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}}}


@dataclass(frozen=True, slots=True)
class Tools:
    count: Bound

    def __call__(self, field: str, value: object) -> tuple[Tool, ...]:
        tools = self._list()(field, value)
        seen: set[str] = set()
        for i, tool in enumerate(tools):
            name = tool["function"]["name"]
            if name in seen:
                raise InvalidRequest(
                    f"{field}[{i}].function.name {name!r} is there twice", param=f"{field}[{i}].function.name"
                )
            seen.add(name)
            tool["function"].pop("strict", None)  # ours to keep in any case, and no template knows it
        check_count(field, len(tools), self.count)
        return tools

    def schema(self) -> Schema:
        return self._list().schema()

    def _list(self) -> ListOf:
        return ListOf(self.count, _TOOL)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    mode: Literal["none", "auto", "required"]
    name: str | None = None
    """With required: this tool and no other."""


@dataclass(frozen=True, slots=True)
class ToolChoices:
    def __call__(self, field: str, value: object) -> ToolChoice:
        if isinstance(value, str):
            return ToolChoice(OneOf(_MODES)(field, value))  # type: ignore[arg-type]
        if not isinstance(value, dict):
            raise refuse(field, 'none, auto, required or {"type": "function", "function": {"name": ...}}', value)
        if value.get("type") in ("allowed_tools", "custom"):
            raise UnsupportedField(
                f"{field}.type {value['type']!r} is not supported here: send the tools that may be called",
                param=f"{field}.type",
            )
        return ToolChoice("required", _CHOSEN(field, value)["function"]["name"])

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(_MODES)}, _CHOSEN.schema()]}
