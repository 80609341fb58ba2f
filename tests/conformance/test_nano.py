"""The embedded model: what it was made from, that it still fits the command line, and how often it is right.

The held-out questions are read by this program and never shown: only shares of right answers come out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from safetensors.torch import load_file
from tokenizers import Tokenizer

from kelm import LLM
from kelm.apps.commands import verbs
from kelm.cli.main import app
from kelm.store.packaged import FOLDER
from kelm.tune import documents
from kelm.tune.bits import bits_per_byte
from kelm.tune.decoder import Decoder
from kelm.tune.recipe import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "nano"
QUESTIONS = ROOT / "tests" / "data" / "nano_questions.jsonl"
MODEL = FOLDER / "nano"
SOME = 800
"""Held-out documents that are measured again here; `make nano` measures all 4,000."""
PROVENANCE: dict[str, Any] = json.loads((MODEL / "PROVENANCE.json").read_text(encoding="utf-8"))


def recipe_module(name: str) -> ModuleType:
    """A module of the recipe's folder, which is no package."""
    sys.path.insert(0, str(RECIPE))
    try:
        spec = importlib.util.spec_from_file_location(f"nano_{name}", RECIPE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(RECIPE))
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both splits, made anew exactly as `kelm pretrain` has them made."""
    recipe, folder = load(RECIPE / "recipe.yaml"), tmp_path_factory.mktemp("corpus")
    excluded = [str(recipe.folder / name) for name in recipe.data.exclude.split()]
    counts = {"train": recipe.data.documents, "heldout": recipe.data.heldout_documents}
    for split, count in counts.items():
        command = [sys.executable, str(RECIPE / "generate.py"), "--split", split, "--documents", str(count)]
        command += ["--seed", str(recipe.seed), "--exclude", *excluded, "--out", str(folder / split)]
        subprocess.run(command, check=True, capture_output=True)
    return {split: folder / split for split in counts}


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 7_000_000


def test_recipe_and_weights_are_those_of_the_provenance() -> None:
    assert PROVENANCE["recipe_sha256"] == load(RECIPE / "recipe.yaml").digest, "run `make nano` again"
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert PROVENANCE["weights_sha256"] == weights


def test_the_corpus_can_be_made_again(corpus: dict[str, Path]) -> None:
    assert hashlib.sha256(corpus["train"].read_bytes()).hexdigest() == PROVENANCE["data_sha256"], (
        "run `make nano` again"
    )


UNTAUGHT = {
    "bench",
    "cancel",
    "cluster plan",
    "cluster run",
    "cluster serve",
    "compress",
    "eval",
    "key create",
    "key list",
}
UNTAUGHT |= {"key revoke", "nice", "publish", "rollback", "support", "tune", "update", "versions", "why"}
"""Commands that are younger than the model. recipes/nano/next.patch teaches them, with the next `make nano`."""


def test_the_table_of_commands_is_the_command_line() -> None:
    """A changed command asks for a changed table, a changed table for a new run of the recipe."""
    table = recipe_module("commands")
    found = {" ".join(verb.words): verb for verb in verbs(typer.main.get_command(app))}
    assert set(found) - set(table.COMMANDS) == UNTAUGHT
    assert set(table.COMMANDS) <= set(found)
    for name, taught in table.COMMANDS.items():
        words = {word for word in taught if not word.startswith("-")}
        required = {argument.placeholder for argument in found[name].arguments if argument.required}
        assert required <= words <= {argument.placeholder for argument in found[name].arguments}, name
        flags = {flag for option in found[name].options for flag in option.flags}
        assert {word for word in taught if word.startswith("-")} <= flags, name
    assert PROVENANCE["generator"]["commands_sha256"] == table.commands_sha256(), "run `make nano` again"


def test_it_beats_a_five_gram_on_text_that_neither_has_seen(corpus: dict[str, Path]) -> None:
    recipe = load(RECIPE / "recipe.yaml")
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    decoder = Decoder(recipe.model, tokenizer.get_vocab_size())
    decoder.load_state_dict({name: value.float() for name, value in load_file(MODEL / "model.safetensors").items()})
    some = list(documents.read([corpus["heldout"]]))[:SOME]
    heldout = documents.Encoder(tokenizer, recipe.train.prompt_loss).encode(some)
    measured = bits_per_byte(decoder, heldout, recipe.train.row_tokens)
    assert measured == pytest.approx(PROVENANCE["heldout_bits_per_byte"], rel=0.05)
    assert measured < PROVENANCE["kneser_ney_bits_per_byte"], (
        "the baseline was trained on the whole corpus, in `make nano`"
    )


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    llm = LLM("nano", home=str(tmp_path_factory.mktemp("home")))
    yield llm
    llm.close()


def test_the_held_out_questions(nano: LLM) -> None:
    score = recipe_module("score")
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines() if line]
    assert [sum(q["kind"] == kind for q in questions) for kind in ("command", "off_topic")] == [60, 20]
    shares = score.shares(questions, score.answers(nano, questions))
    assert shares["invented"] == 0
    assert shares["command"] >= 0.80
    assert shares["off_topic"] >= 0.90


def test_the_scorer_is_strict() -> None:
    score = recipe_module("score")
    assert score.names("Use `kelm serve MODEL --port 9001`.", ["kelm serve --port"])
    assert not score.names("Use `kelm serve`.", ["kelm serve --port"])
    assert not score.names("Use `kelm stop MODEL`, or `kelm rm MODEL`.", ["kelm rm"]), "the first command counts"
    assert not score.names("Use kelm rm.", ["kelm rm"])
    assert score.declined("Sorry, I don't know that.")
    assert not score.declined("I don't know; try `kelm ps`.")
    assert not score.declined("")
    assert score.invented("Use `kelm kill MODEL`") == ["kill"]
    assert score.invented("type kelm ps --everything") == ["ps --everything"]
    assert score.invented("用 `kelm config show` 或 `kelm ps --models`") == []


def test_it_greets_and_says_what_it_is(nano: LLM) -> None:
    score = recipe_module("score")
    asked = ["Hello!", "你好", "what is kelm?", "你是谁"]
    said = score.answers(nano, [{"question": question} for question in asked])
    for answer, word in zip(said, ["Kelm", "Kelm", "kernel", "nano"], strict=True):
        assert word in answer
        assert "`" not in answer
