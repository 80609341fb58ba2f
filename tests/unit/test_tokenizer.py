"""What a checkpoint's files say about its tokenizer, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kelm.testing import tokenizers as tiny
from kelm.text.tokenizer import Tokenizer


def load(folder: Path, declared: dict[str, Any] | None = None, **others: object) -> Tokenizer:
    files = tiny.write(folder, "byte_level", declared)
    for name, content in others.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content))
        files[path.name] = str(path)
    return Tokenizer.load(files)


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        ({}, {}, (4,)),
        ({"eos_token_id": 2}, {}, (2, 4)),
        ({"eos_token_id": [2, 1]}, {}, (2, 1, 4)),
        ({"eos_token_id": 2}, {"eos_token_id": 1}, (1, 4)),
        ({"eos_token_id": 2}, {"eos_token_id": [4, 1]}, (4, 1)),
        ({"text_config": {"eos_token_id": 2}}, {}, (2, 4)),
        ({"eos_token_id": None}, {"eos_token_id": None}, (4,)),
    ],
)
def test_end_tokens(config: object, generation: object, ids: tuple[int, ...], tmp_path: Path) -> None:
    assert load(tmp_path, config=config, generation_config=generation).eos_ids == ids


def test_declarations_of_the_config_reach_the_tokenizer(tmp_path: Path) -> None:
    declared = {
        "added_tokens_decoder": {
            "500": {"content": "<|new|>", "special": True},
            "3": {"content": "[INST]", "special": True},
        },
        "additional_special_tokens": ["<extra>", {"content": "</think>"}],
        "bos_token": {"content": "<begin>", "lstrip": False},
    }
    tokenizer = load(tmp_path, declared)
    special = {tokenizer.added[i].content for i in tokenizer.special_ids}
    assert {"<|new|>", "[INST]", "<extra>", "</think>", "<begin>"} <= special
    assert tokenizer.bos_id == tokenizer.token_id("<begin>")
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode("<|new|>[INST]<extra></think><begin>"))
    assert tokenizer.decode([tokenizer.token_id("<extra>") or 0]) == ""
    assert max(tokenizer.added) + 1 == tokenizer.vocab_size


def test_named_tokens_of_older_checkpoints(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, {"eos_token": None}, special_tokens_map={"eos_token": {"content": "</s>"}})
    assert tokenizer.eos_ids == (tokenizer.token_id("</s>"),)


def test_words_and_spaces_that_were_added_stay_words_and_spaces(tmp_path: Path) -> None:
    made = tiny.make("byte_level")
    made.add_tokens(["    ", "covid"])
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    tokenizer = Tokenizer.load({"tokenizer.json": str(tmp_path / "tokenizer.json")})
    ids = tokenizer.encode("a    covid")
    assert {tokenizer.token_id("    "), tokenizer.token_id("covid")} <= set(ids)
    assert tokenizer.decode(ids) == "a    covid"


def test_bytes_and_texts_of_tokens(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    ids = tokenizer.encode(" 模型")
    assert b"".join(map(tokenizer.token_bytes, ids)) == " 模型".encode()
    assert tokenizer.token_text(ids[0]) in (" ", " \ufffd", "\ufffd")
    assert tokenizer.token_bytes(10**6) == b"" and tokenizer.decode([10**6, -1]) == ""


def test_info_tells_what_was_built_and_no_paths(tmp_path: Path) -> None:
    info = load(tmp_path, {"model_max_length": 512, "name_or_path": "/home/x", "tokenizer_class": "X"}).info()
    assert (info["eos_token"], info["eos_token_ids"], info["model_max_length"]) == ("<|im_end|>", [4], 512)
    assert "name_or_path" not in info and info["tokenizer_class"] == "X"
