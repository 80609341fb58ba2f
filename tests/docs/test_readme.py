"""README.md and README.zh.md: equal to each other, and true.

Each promise names the test that holds it; a promise whose test does not exist is not a promise.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from documents import LINK, ROOT, Document

ENGLISH = Document.read(ROOT / "README.md")
CHINESE = Document.read(ROOT / "README.zh.md")
PROMISES = 1
"""Which second-level section of the README holds the promises."""


def promises(document: Document) -> list[str]:
    """The list items of that section, each on one line."""
    items = re.split(r"^- ", document.section(PROMISES), flags=re.M)[1:]
    return [" ".join(item.split("\n\n")[0].split()) for item in items]


def shell_lines() -> list[str]:
    blocks = [content for language, content in ENGLISH.blocks if language == "sh"]
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def commands() -> list[list[str]]:
    """The words of every ``kelm`` command line in the README, and of those that the Makefile and its script run."""
    lines = [shlex.split(line, comments=True) for line in shell_lines()]
    found = [words[1:] for words in lines if words and words[0] == "kelm"]
    for name in ("Makefile", "scripts/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found += [words.split() for words in re.findall(r"(?:\$\(BIN\)|\$bin)/kelm\"? ([a-z][^\n|]*)", text)]
    return found


def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_both_languages_have_the_same_shape() -> None:
    assert [level for level, _ in ENGLISH.headings] == [level for level, _ in CHINESE.headings]
    assert ENGLISH.blocks == CHINESE.blocks
    assert len(promises(ENGLISH)) == len(promises(CHINESE))
    for english, chinese in zip(ENGLISH.prose.split("\n## "), CHINESE.prose.split("\n## "), strict=True):
        assert english.count("\n|") == chinese.count("\n|"), "tables of another length"


def test_both_languages_have_the_same_links_and_figures() -> None:
    other = {"README.zh.md": "README", "README.md": "README"}
    wanted = sorted(other.get(target, target) for _, target in ENGLISH.links)
    assert sorted(other.get(target, target) for _, target in CHINESE.links) == wanted
    assert ENGLISH.figures == CHINESE.figures


def test_it_fits_on_a_screen_or_two() -> None:
    assert len(ENGLISH.text.splitlines()) <= 100


def test_there_are_promises() -> None:
    assert len(promises(ENGLISH)) >= 3


@pytest.mark.parametrize("promise", promises(ENGLISH), ids=lambda line: line[:40])
def test_a_test_holds_each_promise(promise: str) -> None:
    held = [(label.strip("`"), target) for label, target in LINK.findall(promise) if target.startswith("tests/")]
    assert held, f"no test named: {promise}"
    for name, path in held:
        assert name in functions_in(path), f"{path} has no {name}"


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [words[1] for line in shell_lines() if (words := shlex.split(line, comments=True))[:1] == ["make"]]
    assert {"run", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), f"no `make {target}`"


def entry_point() -> str:
    """``module:function`` behind the ``kelm`` command."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return str(scripts["kelm"])


def kelm_help(*verbs: str) -> str:
    module, function = entry_point().split(":")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from {module} import {function} as f; sys.exit(f())", *verbs, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"kelm {' '.join(verbs)} --help: {done.stderr[-500:]}"
    return done.stdout


def test_the_entry_point_is_there() -> None:
    module, function = entry_point().split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_kelm_commands_in_the_readme_exist(words: list[str]) -> None:
    verbs = words[: 2 if words[0] in {"config"} else 1]
    text = kelm_help(*verbs)
    for flag in (word.split("=")[0] for word in words if word.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(flag)}\b", text), f"kelm {' '.join(verbs)} has no {flag}"


@pytest.mark.parametrize("source", [content for language, content in ENGLISH.blocks if language == "python"])
def test_python_in_the_readme_compiles(source: str) -> None:
    compile(source, "README.md", "exec")
