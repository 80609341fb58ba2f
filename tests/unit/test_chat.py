"""Messages as OpenAI's clients send them, made into what templates expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kelm.errors import InvalidRequest, UnsupportedField
from kelm.testing import tokenizers as tiny
from kelm.text import chat
from kelm.text.tokenizer import Tokenizer

PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"


def rendered(folder: Path, template: Any, messages: list[Any], **more: Any) -> str:
    tokenizer = Tokenizer.load(tiny.write(folder, "byte_level", {"chat_template": template}))
    return tokenizer.decode(chat.render(tokenizer, chat.Chat(messages, **more)), skip_special_tokens=False)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_content_is_a_string_or_text_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert rendered(tmp_path, PLAIN, user(parts)) == "user:a\nb;"
    assert rendered(tmp_path, PLAIN, [{"role": "assistant", "content": None}]) == "assistant:;"


def test_a_part_that_is_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedField, match="image_url") as error:
        rendered(tmp_path, PLAIN, user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]))
    assert error.value.param == "messages[0].content[1].type"


@pytest.mark.parametrize("content", [3, {"a": 1}, [{"type": "text"}], ["text"], [{"type": "text", "text": 3}]])
def test_other_content_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.content"):
        rendered(tmp_path, PLAIN, user(content))


def test_developer_is_system_where_the_template_knows_no_developer(tmp_path: Path) -> None:
    messages = [{"role": "developer", "content": "x"}]
    assert rendered(tmp_path, PLAIN, messages) == "system:x;"
    knows = "{% if messages[0].role == 'developer' %}dev{% endif %}" + PLAIN
    assert rendered(tmp_path, knows, messages) == "devdeveloper:x;"


def test_a_model_without_a_template_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        rendered(tmp_path, None, user("x"))


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "{{ tools[0].name }}"}]
    assert rendered(tmp_path, named, user("x")) == "d"
    assert rendered(tmp_path, named, user("x"), tools=[{"name": "f"}]) == "f"


def test_a_template_file_comes_before_the_config(tmp_path: Path) -> None:
    files = tiny.write(tmp_path, "byte_level", {"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("new")
    tokenizer = Tokenizer.load({**files, "chat_template.jinja": str(tmp_path / "chat_template.jinja")})
    assert tokenizer.chat_template == "new"


def test_tool_calls_come_with_their_arguments_as_an_object(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    template = "{{ messages[0].tool_calls[0].function.arguments.x }}"
    assert rendered(tmp_path, template, [{"role": "assistant", "tool_calls": [call]}]) == "1"
    with pytest.raises(InvalidRequest, match="tool_calls"):
        rendered(tmp_path, template, [{"role": "assistant", "tool_calls": 3}])


def test_options_reach_the_template(tmp_path: Path) -> None:
    template = "{% if enable_thinking %}on{% else %}off{% endif %}"
    assert rendered(tmp_path, template, user("x"), options={"enable_thinking": True}) == "on"
    with pytest.raises(InvalidRequest, match="enable_thinking"):
        rendered(tmp_path, PLAIN, user("x"), options={"enable_thinking": True})


@pytest.mark.parametrize("messages", [[], [3], [{"content": "x"}], user("x") * 5000])
def test_malformed_messages(messages: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        rendered(tmp_path, PLAIN, messages)


def test_the_date_comes_from_the_clock(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{{ strftime_now('%Y') }}", user("x")).startswith("20")
