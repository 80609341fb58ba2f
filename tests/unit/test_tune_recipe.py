"""Recipes: every mistake is an error that names the key, and nothing is silently dropped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from kelm.errors import ConfigError
from kelm.tune.recipe import Data, Recipe, Shape, Tokens, Training, load

GOOD: dict[str, Any] = {
    "name": "tiny",
    "data": {"files": "*.jsonl", "heldout_files": "held/*.jsonl"},
    "tokenizer": {"vocab_size": 400},
    "model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    "train": {"steps": 4, "batch_rows": 2, "row_tokens": 32, "learning_rate": 0.01},
}


def written(folder: Path, tree: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def changed(section: str, **values: Any) -> dict[str, Any]:
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in GOOD.items()}
    (tree[section] if section else tree).update(values)
    return tree


def test_a_good_recipe(tmp_path: Path) -> None:
    recipe = load(written(tmp_path, GOOD))
    assert (recipe.model.head_dim, recipe.train.steps, recipe.folder) == (8, 4, tmp_path.resolve())
    assert len(recipe.digest) == 64


@pytest.mark.parametrize("section", ["", "data", "tokenizer", "model", "train"])
def test_unknown_keys_name_near_matches(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match="unknown key 'nothing_like_it'"):
        load(written(tmp_path, changed(section, nothing_like_it=1)))
    with pytest.raises(ConfigError, match=r"did you mean .*warmup_steps"):
        load(written(tmp_path, changed("train", warm_up_steps=1)))


def bounds() -> list[tuple[str, str, Any]]:
    found = []
    for section, cls in {"": Recipe, "data": Data, "tokenizer": Tokens, "model": Shape, "train": Training}.items():
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if "bound" in field.metadata:
                found.append((section, field.name, field.metadata["bound"]))
    return found


@pytest.mark.parametrize(("section", "name", "bound"), bounds(), ids=lambda value: str(value) if value else "top")
def test_every_number_has_its_bounds(tmp_path: Path, section: str, name: str, bound: Any) -> None:
    for bad in (bound.least - 1, bound.most + 1, float("nan"), True, "7", None):
        with pytest.raises(ConfigError, match=name):
            load(written(tmp_path, changed(section, **{name: bad})))


def test_shapes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="even multiple"):
        load(written(tmp_path, changed("model", hidden_size=34)))
    with pytest.raises(ConfigError, match="must divide"):
        load(written(tmp_path, changed("model", num_key_value_heads=3)))
    with pytest.raises(ConfigError, match="warmup_steps"):
        load(written(tmp_path, changed("train", warmup_steps=5)))
    with pytest.raises(ConfigError, match="exactly one"):
        load(written(tmp_path, changed("data", generator="make.py")))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "!!python/object/apply:os.system [ls]", "\x00"])
def test_rubbish_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(path)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    tree = changed("train")
    del tree["train"]["steps"], tree["train"]["batch_rows"]
    with pytest.raises(ConfigError, match=r"recipe\.train lacks steps, batch_rows"):
        load(written(tmp_path, tree))
