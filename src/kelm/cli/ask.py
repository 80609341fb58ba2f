"""`kelm ask`: a model of the package names a command; here it is completed, confirmed and run."""

from __future__ import annotations

import os
import sys

import typer.main

from kelm.apps.ask import Command, interpret, request
from kelm.cli import chat
from kelm.cli.shelf import open_store
from kelm.errors import StoreError
from kelm.store import Name
from kelm.store.packaged import SOURCE


def ask(question: str, app: typer.Typer) -> None:
    """Print the answer. On a terminal, offer to run the command that it names; what takes something away, or keeps the
    terminal, is run only after a plain yes."""
    models = open_store().list()
    shipped = [model for model in models if model.source == SOURCE]
    if not shipped:
        raise StoreError("no model came with this install, so there is nobody to ask; `kelm --help` lists the commands")
    model = min(shipped, key=lambda shipped: shipped.size_bytes).name
    tree = typer.main.get_command(app)
    client = chat.daemon_with(model)
    reply = client.call("POST", "/v1/chat/completions", request(model, question, tree))
    text = str(reply["choices"][0]["message"]["content"] or "")
    answer = interpret(text, question, tree, [Name.parse(model.name).short for model in models])
    print(answer.text)
    if answer.command is not None and sys.stdin.isatty() and sys.stdout.isatty():
        _offer(answer.command)


def _offer(command: Command) -> None:
    for placeholder in command.missing:
        value = input(f"{placeholder}: ").strip()
        if not value:
            return
        command = command.fill(placeholder, value)
    careful = command.destructive or command.endless
    said = input(f"Run `{command}`? [{'y/N' if careful else 'Y/n'}] ").strip().lower()
    if said in ("y", "yes") or (not said and not careful):
        os.execv(sys.executable, [sys.executable, "-m", "kelm.cli", *command.arguments()])
