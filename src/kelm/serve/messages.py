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
from kelm.serve.checks import OneOf, Schema, Text, check_count, refuse, unknown
from kelm.serve.inputs import TEXT

Message = dict[str, str]
"""role, content, and name where it was given."""

ROLES = ("system", "developer", "user", "assistant")
_OTHER_ROLES = ("tool", "function")
_EMPTY_ALLOWED = ("refusal", "audio", "tool_calls", "function_call", "annotations", "tool_call_id")
_OTHER_PARTS = ("image_url", "input_audio", "file", "refusal", "video_url", "audio_url")


@dataclass(frozen=True, slots=True)
class Messages:
    count: Bound

    def __call__(self, field: str, value: object) -> list[Message]:
        if not isinstance(value, list):
            raise refuse(field, "a list of messages", value)
        check_count(field, len(value), self.count)
        messages = [_message(f"{field}[{i}]", entry) for i, entry in enumerate(value)]
        check_count(field, sum(len(each["content"].encode()) for each in messages), limits.PROMPT_BYTES)
        return messages

    def schema(self) -> Schema:
        content = {"anyOf": [TEXT.schema(), {"type": "array", "items": {"type": "object"}}]}
        message = {"type": "object", "properties": {"role": {"enum": list(ROLES)}, "content": content}}
        return {"type": "array", "items": message, "minItems": self.count.least, "maxItems": self.count.most}


def _message(field: str, entry: object) -> Message:
    if not isinstance(entry, dict):
        raise refuse(field, "an object with role and content", entry)
    for name, value in entry.items():
        if name not in ("role", "content", "name"):
            _check_foreign(f"{field}.{name}", name, value)
    message = {"role": _role(f"{field}.role", entry.get("role")), "content": _content(field, entry.get("content"))}
    if entry.get("name") is not None:
        message["name"] = Text(limits.STRING_BYTES)(f"{field}.name", entry["name"])
    return message


def _role(field: str, role: object) -> str:
    if role in _OTHER_ROLES:
        raise UnsupportedField(f"{field} {role!r} is not supported here: tool calls are not supported yet", param=field)
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
