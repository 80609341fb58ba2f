"""Messages to token ids. The template's own special tokens are tokens; what users wrote is only text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kelm import limits
from kelm.clock import SYSTEM, Clock
from kelm.errors import InvalidRequest, UnsupportedField
from kelm.text.marks import Marks
from kelm.text.template import Template
from kelm.text.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PROSE = ("content", "reasoning_content", "reasoning", "thinking")
_KEPT = ("role", "name", "tool_calls", "tool_call_id", *_PROSE)
"""What a template sees of a message."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as OpenAI's chat completions have it."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    """chat_template_kwargs: what the template reads beside the messages (enable_thinking ...)."""


def render(tokenizer: Tokenizer, chat: Chat, clock: Clock = SYSTEM) -> list[int]:
    """The prompt's token ids.

    Raises InvalidRequest when the model has no template, the template refuses, or a message is malformed;
    ModelFormatError when the template doesn't compile.
    """
    template = _template(tokenizer, chat)
    template.check_options(chat.options)
    messages = [_message(message, i) for i, message in enumerate(_checked(chat.messages))]
    if "developer" not in template.source:
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    controls = {i: token for i, token in tokenizer.added.items() if token.control}
    theirs = (messages, chat.tools, chat.documents, dict(chat.options))
    marks = Marks(controls, template.source + json.dumps(theirs, ensure_ascii=False, default=str))
    rendered = template.render(_variables(tokenizer, chat, messages, marks), clock)
    return tokenizer.encode_parts(marks.split(rendered))


def _template(tokenizer: Tokenizer, chat: Chat) -> Template:
    templates = tokenizer.chat_templates
    source = templates.get("tool_use") if chat.tools else None
    source = source or templates.get("default")
    if source is None:
        raise InvalidRequest(
            "this model has no chat template, so it can't answer messages; send a prompt to /v1/completions,"
            " or use a model that was trained to chat",
            param="messages",
        )
    return Template.cached(source)


def _variables(tokenizer: Tokenizer, chat: Chat, messages: list[dict[str, Any]], marks: Marks) -> dict[str, Any]:
    return {
        **tokenizer.named,
        **{name: marks.mark(value) for name, value in chat.options.items()},
        "messages": [_marked(message, marks) for message in messages],
        "tools": None if chat.tools is None else marks.mark(chat.tools),
        "documents": None if chat.documents is None else marks.mark(chat.documents),
        "add_generation_prompt": chat.add_generation_prompt,
    }


def _marked(message: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Every value but the role, which is one of ROLES."""
    return {key: value if key == "role" else marks.mark(value, prose=key in _PROSE) for key, value in message.items()}


def _checked(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    least, most = int(limits.MESSAGES.least), int(limits.MESSAGES.most)
    if not least <= len(messages) <= most:
        raise InvalidRequest(f"messages must have {least} to {most} entries, got {len(messages)}", param="messages")
    return messages


def _message(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One message as templates expect it: known keys, content as a string, tool arguments as an object."""
    field_name = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{field_name} must be an object with a role and content", param=field_name)
    if message.get("role") not in ROLES:
        got = str(message.get("role"))[:40]
        raise InvalidRequest(f"{field_name}.role must be one of {', '.join(ROLES)}, got {got!r}", param=field_name)
    kept = {key: message[key] for key in _KEPT if message.get(key) is not None}
    kept["content"] = _content(message.get("content"), f"{field_name}.content")
    if "tool_calls" in kept:
        if not isinstance(kept["tool_calls"], (list, tuple)):
            raise InvalidRequest(f"{field_name}.tool_calls must be a list", param=f"{field_name}.tool_calls")
        kept["tool_calls"] = [_tool_call(call) for call in kept["tool_calls"]]
    return kept


def _content(content: Any, field_name: str) -> str:
    """A string, or the text parts of a list joined by line ends; no content is the empty string."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, (list, tuple)):
        raise InvalidRequest(f"{field_name} must be a string or a list of text parts", param=field_name)
    texts: list[str] = []
    for i, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) else None
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text":
            raise UnsupportedField(
                f"{field_name}[{i}].type {str(kind)[:40]!r} is not supported; only 'text' parts are",
                param=f"{field_name}[{i}].type",
            )
        if not isinstance(text, str):
            raise InvalidRequest(f"{field_name}[{i}].text must be a string", param=f"{field_name}[{i}].text")
        texts.append(text)
    return "\n".join(texts)


def _tool_call(call: Any) -> Any:
    """OpenAI sends ``function.arguments`` as JSON text; templates want the object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
