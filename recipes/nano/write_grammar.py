"""Writes grammar.lark beside the trained model: the grammar of this command line, which masks every chat with it.

python recipes/nano/write_grammar.py src/kelm/data/models/nano
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from kelm.apps import answer_grammar
from kelm.apps.commands import verbs
from kelm.cli.main import app
from kelm.text.grammar import FILE


def main() -> None:
    tree = typer.main.get_command(app)
    (Path(sys.argv[1]) / FILE).write_text(answer_grammar.lark(verbs(tree)), encoding="utf-8")


if __name__ == "__main__":
    main()
