"""Grammars: only what fits may be picked, an end token only at an end, and any walk along the mask is a sentence."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm import limits
from kelm.errors import InvalidRequest, UnsupportedModel
from kelm.testing import tokenizers as tiny
from kelm.text import grammar
from kelm.text.grammar import GrammarCompiler, GrammarState
from kelm.text.tokenizer import Tokenizer

FAMILIES = ("byte_level", "byte_fallback")
COMMANDS = ["kelm ps", "kelm ps --models", "kelm run", "kelm rm 模型"]


@functools.cache
def compiler(family: str) -> tuple[Tokenizer, GrammarCompiler]:
    tokenizer = Tokenizer.load(tiny.write(Path(tempfile.mkdtemp()), family))
    return tokenizer, GrammarCompiler(tokenizer)


def allowed(state: GrammarState, width: int) -> list[int]:
    logits = np.zeros(width, dtype=np.float32)
    state.mask(logits)
    return [int(i) for i in np.flatnonzero(logits == 0)]


def walk(family: str, text: str, draw: st.DataObject, most: int = 200) -> str:
    """A sentence of the grammar, picked token by token among those allowed, ending tokens preferred."""
    tokenizer, compiled = compiler(family)
    state, ids = compiled.start(text), []
    for _ in range(most):
        choices = allowed(state, tokenizer.vocab_size + 7)
        assert choices, "a dead end"
        assert all(i < tokenizer.vocab_size for i in choices)
        ends = [i for i in choices if i in tokenizer.eos_ids]
        assert bool(ends) == state.may_end
        picked = ends[0] if ends and draw.draw(st.booleans()) else draw.draw(st.sampled_from(choices))
        state.accept(picked)
        if picked in tokenizer.eos_ids:
            assert state.finished and set(allowed(state, tokenizer.vocab_size)) == set(tokenizer.eos_ids)
            break
        assert picked not in tokenizer.control_ids
        ids.append(picked)
    return tokenizer.decode(ids)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_choices(family: str, data: st.DataObject) -> None:
    assert walk(family, grammar.from_choices(COMMANDS), data) in COMMANDS


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_regex(family: str, data: st.DataObject) -> None:
    assert re.fullmatch(r"a[bc]{2,5}é?(x|yz)", walk(family, grammar.from_regex(r"a[bc]{2,5}é?(x|yz)"), data))


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_json_schema(data: st.DataObject) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"enum": ["x", "y"]}},
        "required": ["n", "b"],
        "additionalProperties": False,
    }
    value = json.loads(
        walk("byte_level", grammar.from_json_schema(schema | {"x-guidance": {"whitespace_flexible": False}}), data)
    )
    assert set(value) == {"n", "b"} and 0 <= value["n"] <= 9 and value["b"] in ("x", "y")


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_lark(data: st.DataObject) -> None:
    text = walk("byte_level", grammar.from_lark('start: "(" start ")" | "x"'), data, most=30)
    assert text.startswith("(" * text.count("(")) and text.count(")") <= text.count("(")


def test_replay_and_fork_reach_the_same_place() -> None:
    tokenizer, compiled = compiler("byte_level")
    text = grammar.from_choices(COMMANDS)
    known = tokenizer.encode("kelm p", add_special_tokens=False)
    state = compiled.start(text)
    for token_id in known:
        state.accept(token_id)
    again, fork = compiled.start(text, known), state.fork()
    expected = state.bitmask()
    assert (again.bitmask() == expected).all() and (fork.bitmask() == expected).all()
    fork.accept(tokenizer.encode("s", add_special_tokens=False)[0])
    assert (state.bitmask() == expected).all() and not (fork.bitmask() == expected).all()


def test_a_token_that_does_not_fit_is_refused() -> None:
    tokenizer, compiled = compiler("byte_level")
    state = compiled.start(grammar.from_choices(["yes"]))
    with pytest.raises(InvalidRequest, match="does not fit"):
        state.accept(tokenizer.eos_ids[0])
    with pytest.raises(InvalidRequest, match="does not fit"):
        compiled.start(grammar.from_choices(["yes"]), tokenizer.encode("no"))


def test_every_end_token_ends(tmp_path: Path) -> None:
    files = tiny.write(tmp_path, "byte_level")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    compiled = GrammarCompiler.for_tokenizer(
        {**files, "generation_config.json": str(tmp_path / "generation_config.json")}
    )
    assert set(compiled.eos_ids) == {1, 2, 4}
    state = compiled.start(grammar.from_choices(["a"]))
    assert not {1, 2, 4} & set(allowed(state, 500))
    state.accept(compiler("byte_level")[0].encode("a")[0])
    assert set(allowed(state, 500)) == {1, 2, 4}
    for end in (1, 4, 1):  # more of them may follow, under ignore_eos
        state.accept(end)
        assert set(allowed(state, 500)) == {1, 2, 4}
    with pytest.raises(InvalidRequest, match="does not fit"):
        state.accept(100)


@pytest.mark.parametrize(
    "text", ["start: (((", "", "x" * (int(limits.GRAMMAR_BYTES.most) + 1), "start: /(a)\\1/", '{"grammars": 3}']
)
def test_what_is_no_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="grammar"):
        compiler("byte_level")[1].check(text)


def test_bounds_of_the_constructors() -> None:
    for make in (
        lambda: grammar.from_choices([]),
        lambda: grammar.from_choices(["a", ""]),
        lambda: grammar.from_json_schema("{"),
    ):
        with pytest.raises(InvalidRequest):
            make()


def test_a_model_without_an_end_token_is_refused(tmp_path: Path) -> None:
    files = tiny.write(tmp_path, "byte_level", {"eos_token": None})
    with pytest.raises(UnsupportedModel, match="end token"):
        GrammarCompiler.for_tokenizer(files)


def test_forced_text_is_cut_as_the_model_knows_it() -> None:
    """Not with the space that sentencepiece puts before a text: llguidance counts bytes."""
    tokenizer, compiled = compiler("byte_fallback")
    vocabulary = grammar._Vocabulary(tokenizer, compiled.eos_ids)
    for text in ("the quick", " quick brown", "模型 é", ""):
        ids = vocabulary(text.encode())
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    words = [text.decode() for text in vocabulary.tokens if 2 <= len(text) <= 4 and text.isalpha()]
    texts = [first + second for first in words[:40] for second in words[:40]]
    known = [tokenizer.encode("\x02" + text, add_special_tokens=False)[2:] for text in texts]
    assert [vocabulary(text) for text in texts] == known
    assert [vocabulary._greedy(text.encode()) for text in texts] != known


def test_imports_no_torch() -> None:
    code = (
        "import sys, kelm.text.grammar, kelm.text.helper_main; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
