"""nano's generator: seeded, of the standard library alone, and clean of the held-out questions.

The questions are read by programs only: what is compared here is never printed."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "nano"
QUESTIONS = ROOT / "tests" / "data" / "nano_questions.jsonl"
DOCUMENTS = 6000


def generate(out: Path, *, split: str, seed: int = 1, documents: int = DOCUMENTS) -> dict[str, object]:
    command = [sys.executable, str(RECIPE / "generate.py"), "--split", split, "--documents", str(documents)]
    command += ["--seed", str(seed), "--exclude", str(QUESTIONS), str(RECIPE / "dev.jsonl"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "train.jsonl"
    generate(out, split="train")
    return out


def texts(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [message["content"] for line in lines for message in json.loads(line)["messages"]]


def five_grams(text: str) -> set[str]:
    """An account of its own, not the generator's: lower case, words and single Chinese characters, five in a row."""
    spaced = re.sub(r"([\u3400-\u9fff])", r" \1 ", text.lower().replace("'", "").replace("\u2019", ""))
    units = re.sub(r"[^a-z0-9\u3400-\u9fff]+", " ", spaced).split()
    return {" ".join(units[i : i + 5]) for i in range(len(units) - 4)}


def test_no_generated_text_shares_a_five_gram_with_a_held_out_question(corpus: Path, tmp_path: Path) -> None:
    questions = [json.loads(line)["question"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines() if line]
    held_out = set().union(*map(five_grams, questions))
    assert len(held_out) > 100
    heldout_split = tmp_path / "heldout.jsonl"
    generate(heldout_split, split="heldout", documents=1000)
    shared = sum(not held_out.isdisjoint(five_grams(text)) for text in texts(corpus) + texts(heldout_split))
    assert shared == 0, f"{shared} texts share a 5-gram with a held-out question"


def test_the_filter_is_needed(tmp_path: Path) -> None:
    """Were nothing ever refused, the test above would prove nothing about the filter."""
    assert int(str(generate(tmp_path / "a.jsonl", split="train", documents=4000)["dropped"])) > 0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, split="train", seed=seed, documents=300)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 2


def test_only_the_standard_library() -> None:
    own = {path.stem for path in RECIPE.glob("*.py")}
    for path in RECIPE.glob("*.py"):
        if path.stem in ("score", "write_grammar"):  # for a finished model; they take no part in making its text
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.partition(".")[0]
                assert top in sys.stdlib_module_names or top in own, f"{path.name} imports {module}"


def test_both_languages_every_command_and_declines_are_there(corpus: Path) -> None:
    lines = corpus.read_text(encoding="utf-8").splitlines()
    replies = [json.loads(line)["messages"][-1]["content"] for line in lines]
    chinese = sum(any("\u3400" <= char <= "\u9fff" for char in reply) for reply in replies)
    assert 0.4 < chinese / len(replies) < 0.6
    declined = sum("don't know" in reply or "不知道" in reply for reply in replies)
    assert 0.2 < declined / len(replies) < 0.4
    named = {match for reply in replies for match in re.findall(r"`kelm ([a-z]+|--[a-z]+)", reply)}
    verbs = "run serve shutdown ps pull import list show stop rm logs ask doctor config pretrain --help --version"
    assert named == set(verbs.split())


def test_words_that_fill_off_topic_questions_are_not_kelms() -> None:
    code = "import json, corpus, words; print(json.dumps([words.words(corpus._vocabulary()), len(words.hanzi())]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=RECIPE, capture_output=True, text=True, check=True, env={"PYTHONPATH": "."}
    )
    fillers, characters = json.loads(done.stdout)
    assert characters == 3755
    assert len(fillers) > 500
    assert not {"model", "memory", "log", "server", "disk", "delete", "download"} & set(fillers)
