"""Chat messages: roles, and content as a string or as text parts. What a template is given is plain text only.

A message that we answered with may be sent back as it came (``refusal: null``, ``annotations: []``, ...).
What a role means to a template, ``developer`` included, is kelm.text.chat's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kelm import limits
from kelm.errors import InvalidRequest, UnsupportedField
from kelm.limits import Bound
from kelm.serve.checks import ListOf, Object, OneOf, Schema, Text, check_count, refuse, unknown
from kelm.serve.inputs import TEXT

Message = dict[str, Any]
"""role, content, and name, tool_calls and tool_call_id where they were given."""

ROLES = ("system", "developer", "user", "assistant", "tool")
_EMPTY_ALLOWED = ("refusal", "audio", "function_call", "annotations")
_KEPT = {"name": "", "tool_calls": "assistant", "tool_call_id": "tool"}
"""Field -> the only role that has it; "": every role."""
_FUNCTION = Object({"name": Text(limits.TOOL_NAME), "arguments": TEXT}, required=("name", "arguments"))
_CALL = Object(
    {"id": Text(limits.STRING_BYTES), "type": OneOf(("function",)), "function": _FUNCTION}, required=("id", "function")
)
_CALLS = ListOf(limits.TOOL_CALLS, _CALL)
_OTHER_PARTS = ("image_url", "input_audio", "file", "refusal", "video_url", "audio_url")


@dataclass(frozen=True, slots=True)
class Messages:
    count: Bound

    def __call__(self, field: str, value: object) -> list[Message]:
        if not isinstance(value, list):
            raise refuse(field, "a list of messages", value)
        check_count(field, len(value), self.count)
        messages = [_message(f"{field}[{i}]", entry) for i, entry in enumerate(value)]
        check_count(field, sum(map(_size, messages)), limits.PROMPT_BYTES)
        return messages

    def schema(self) -> Schema:
        content = {"anyOf": [TEXT.schema(), {"type": "array", "items": {"type": "object"}}]}
        message = {"type": "object", "properties": {"role": {"enum": list(ROLES)}, "content": content}}
        return {"type": "array", "items": message, "minItems": self.count.least, "maxItems": self.count.most}


def _message(field: str, entry: object) -> Message:
    if not isinstance(entry, dict):
        raise refuse(field, "an object with role and content", entry)
    role = _role(f"{field}.role", entry.get("role"))
    message: Message = {"role": role}
    for name, value in entry.items():
        if name in _KEPT and value not in (None, []):
            message[name] = _kept(f"{field}.{name}", name, role, value)
        elif name not in ("role", "content", *_KEPT):
            _check_foreign(f"{field}.{name}", name, value)
    if role == "tool" and "tool_call_id" not in message:
        raise InvalidRequest(
            f"{field}.tool_call_id is required: which call this answers", param=f"{field}.tool_call_id"
        )
    silent = entry.get("content") is None and "tool_calls" in message
    message["content"] = "" if silent else _content(field, entry.get("content"))
    return message


def _kept(field: str, name: str, role: str, value: object) -> Any:
    if _KEPT[name] not in ("", role):
        raise InvalidRequest(f"{field} is for messages of the role {_KEPT[name]!r}, got {role!r}", param=field)
    return list(_CALLS(field, value)) if name == "tool_calls" else Text(limits.STRING_BYTES)(field, value)


def _size(message: Message) -> int:
    calls = sum(len(call["function"]["arguments"].encode()) for call in message.get("tool_calls", ()))
    return len(message["content"].encode()) + calls


def _role(field: str, role: object) -> str:
    if role == "function":
        raise UnsupportedField(f"{field} 'function' is not supported here: send tool messages", param=field)
    return OneOf(ROLES)(field, role)


def _check_foreign(field: str, name: str, value: object) -> None:
    if name not in _EMPTY_ALLOWED:
        raise unknown(field, name, ("role", "content", "name"))
    if value not in (None, [], ""):
        raise UnsupportedField(f"{field} is not supported here", param=field)


def _content(message: str, content: object) -> str:
    field = f"{message}.content"
    if not isinstance(content, list):
        return TEXT(field, content)
    check_count(field, len(content), limits.CONTENT_PARTS)
    return "\n".join(_part(f"{field}[{i}]", part) for i, part in enumerate(content))


def _part(field: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise refuse(field, 'an object like {"type": "text", "text": ...}', part)
    kind = part.get("type")
    if kind in _OTHER_PARTS:
        raise UnsupportedField(
            f"{field}.type {kind!r} is not supported here: models read text only", param=f"{field}.type"
        )
    if kind != "text":
        raise refuse(f"{field}.type", "'text'", kind)
    foreign = [name for name in part if name not in ("type", "text")]
    if foreign:
        raise InvalidRequest(f"unknown field {field}.{foreign[0]:.80}", param=field)
    return TEXT(f"{field}.text", part.get("text"))
