"""The model of the package is the one that its recipe and this command line make."""

from __future__ import annotations

from pathlib import Path

import typer

from kelm.apps import answer_grammar
from kelm.apps.commands import verbs
from kelm.cli.main import app
from kelm.store import Store
from kelm.store.packaged import FOLDER, SOURCE
from kelm.text.grammar import FILE

MOST_BYTES = 7_000_000


def test_it_is_small(tmp_path: Path) -> None:
    shipped = [model for model in Store(tmp_path).list() if model.source == SOURCE]
    assert shipped and sum(model.size_bytes for model in shipped) <= MOST_BYTES


def test_its_grammar_is_that_of_this_command_line() -> None:
    """When this fails, the commands have changed: ``make nano`` makes model and grammar anew."""
    made = answer_grammar.lark(verbs(typer.main.get_command(app)))
    grammars = list(FOLDER.glob(f"*/{FILE}"))
    assert grammars and all(path.read_text("utf-8") == made for path in grammars)
