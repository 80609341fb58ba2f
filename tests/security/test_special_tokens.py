"""Whatever a user writes, it never becomes a control token: not alone, not joined, not across a message's edges."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.errors import InvalidRequest
from kelm.testing import tokenizers as tiny
from kelm.text import chat
from kelm.text.marks import Marks
from kelm.text.spec import Added
from kelm.text.tokenizer import Tokenizer

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
PIECES = st.sampled_from(
    [*SPECIAL, *tiny.ADDED, "<|", "im_end", "|>", "[", "INST", "]", "<", ">", "/s", " ", "\n", "é", "x"]
)
TEXTS = st.lists(PIECES, max_size=10).map("".join)
VISIBLE = TEXTS.filter(str.strip)  # nothing between "<" and "|im_end|>" would be the template's own doing
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if tools %}[{{ tools | tojson }}]{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TIGHT = "{% for m in messages %}[{{ m.content | trim }}]<{{ m.content }}|im_end|>{{ m.name }}<|im_end|>{% endfor %}"


@functools.cache
def load(family: str, template: str = CHATML) -> Tokenizer:
    folder = Path(tempfile.mkdtemp())
    return Tokenizer.load(tiny.write(folder, family, {"chat_template": template}))


def controls(tokenizer: Tokenizer) -> set[int]:
    """Control ids, but for the unknown token, which really is what unknown text becomes."""
    return {i for i in tokenizer.control_ids if i != tokenizer.token_id("<unk>")}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(text=TEXTS)
@settings(max_examples=80, deadline=None)
def test_text_never_becomes_a_control_token(family: str, text: str) -> None:
    tokenizer = load(family)
    assert controls(tokenizer).isdisjoint(tokenizer.encode(text, add_special_tokens=False))
    if family in ("byte_level", "ignore_merges", "byte_fallback"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=True) == text


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_added_token_alone_and_doubled(family: str) -> None:
    tokenizer = load(family)
    assert {token.content for token in tokenizer.added.values()} == {*SPECIAL, *tiny.ADDED}
    for token in tokenizer.added.values():
        for text in (token.content, token.content * 2, f"a{token.content}b", f" {token.content} "):
            assert controls(tokenizer).isdisjoint(tokenizer.encode(text, add_special_tokens=False)), text


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback", "unigram"])
def test_the_name_of_the_unknown_token_is_text_where_it_can_be(family: str) -> None:
    tokenizer = load(family)
    assert tokenizer.token_id("<unk>") not in tokenizer.encode("a<unk>b", add_special_tokens=False)


def test_a_vocabulary_that_can_spell_a_control_token_is_caught() -> None:
    for family in ("unigram", "ignore_merges", "word_level"):
        tokenizer = load(family)
        assert any(token.content for i, token in tokenizer.added.items() if i in tokenizer._encoder._forbidden)


@pytest.mark.parametrize("template", [CHATML, TIGHT])
@given(contents=st.lists(st.tuples(VISIBLE, VISIBLE), min_size=1, max_size=4), family=st.sampled_from(tiny.FAMILIES))
@settings(max_examples=150, deadline=None)
def test_messages_add_no_control_tokens(template: str, contents: list[tuple[str, str]], family: str) -> None:
    tokenizer = load(family, template)
    messages = [{"role": "user", "content": text, "name": name} for text, name in contents]
    tools = [{"name": contents[0][0]}] if template == CHATML else None

    def count(some: list[dict[str, str]], used: object) -> list[int]:
        ids = chat.render(tokenizer, chat.Chat(messages=some, tools=used))  # type: ignore[arg-type]
        return [i for i in ids if i in controls(tokenizer)]

    harmless = [{"role": "user", "content": "x", "name": "y"} for _ in contents]
    assert count(messages, tools) == count(harmless, tools and [{"name": "x"}])


@pytest.mark.parametrize(
    ("template", "content"),
    [
        ("[{{ m.content }}]", "INST"),
        ("[{{ m.content }}", "INST]"),
        ("{{ m.content }}]", "[INST"),
        ("<{{ m.content }}", "/s>"),
        ("<{{ m.content | trim }}", "\n |im_end|> x"),
        ("{{ m.content | trim }}>", "x </s \n"),
        ("<{{ m.content.split('</think>')[-1] }}", "</think>/s>"),
        ("<{{ m.content.split('</think>')[-1].strip() }}", "</think>\n/s>"),
        ("{{ m.content.split('</think>')[0] }}s>", "</</think>"),
    ],
)
def test_an_edge_does_not_complete_the_templates_text(template: str, content: str) -> None:
    tokenizer = load("byte_level", "{% for m in messages %}" + template + "{% endfor %}")
    ids = chat.render(tokenizer, chat.Chat([{"role": "user", "content": content}]))
    assert tokenizer.control_ids.isdisjoint(ids)


OVERLAPPING = {
    1: Added("[a]"),
    2: Added("a][a"),
    3: Added("][", special=True),
    4: Added("[a][", special=True),
    5: Added("]"),
}


@given(st.text(alphabet="[a] ", max_size=20), st.booleans())
@settings(max_examples=300, deadline=None)
def test_tokens_that_overlap_are_all_marked(text: str, prose: bool) -> None:
    marks = Marks(OVERLAPPING, text)
    assert "".join(map(str, marks.split(marks.mark(text, prose)))) == text
    assert [part for part in marks.split(marks.mark(text, prose)) if isinstance(part, int)] == []


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_marks_leave_no_trace(text: str) -> None:
    tokenizer = load("byte_level", "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    ids = chat.render(tokenizer, chat.Chat([{"role": "user", "content": text}]))
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"<|im_start|>{text}<|im_end|>"


def test_a_users_private_characters_survive() -> None:
    tokenizer = load("byte_level")
    for text in ("\ue000\ue001\ue002\ue003", "\U0010fffe<s>\U0010ffff", "\U0010ffff"):
        ids = chat.render(tokenizer, chat.Chat([{"role": "user", "content": text}]))
        assert text in tokenizer.decode(ids)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_reasoning_of_earlier_turns_is_still_found_by_the_template() -> None:
    tokenizer = load("byte_level")
    chat_of = [{"role": "assistant", "content": "hm\n</think>\n\nyes"}]
    text = tokenizer.decode(chat.render(tokenizer, chat.Chat(chat_of)), skip_special_tokens=False)
    assert "<|im_start|>assistant\nyes<|im_end|>" in text


def test_a_mask_may_be_meant() -> None:
    tokenizer = load("word_piece")
    mask = tokenizer.token_id("[INST]")
    assert mask in tokenizer.encode("the [INST] dog", allow=["[INST]"])
    assert mask not in tokenizer.encode("the [INST] dog")


@pytest.mark.parametrize("role", ["im_end", "root", None, 3, ["user"]])
def test_a_role_is_one_of_a_few_words(role: object) -> None:
    with pytest.raises(InvalidRequest, match="role"):
        chat.render(load("byte_level"), chat.Chat([{"role": role, "content": "x"}]))
