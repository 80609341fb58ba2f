"""Answers that a chat model writes, through a real daemon: one that babbles, and one that was taught what to say."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from daemon_kit import CONTEXT, Daemon, daemon, environment, write_llama
from kelm import limits
from kelm.apps.support import index, writing
from kelm.apps.support.database import SCHEMA
from kelm.store import Store
from kelm.text.chat import Chat, render
from kelm.text.tokenizer import Tokenizer
from support_kit import ask, live, read_desk, write_desk

QUESTION = "How long does tea keep in a tin?"
TAUGHT = "Tea keeps 12 months in a dry tin. It also cures every illness!"
DESK = "name: Shop\nmodels: {chat: %s}\nthresholds: {passage: 0.3}\n"


def teach(folder: Path, prompt: list[int], answer: list[int]) -> None:
    """Overfit the checkpoint to one answer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[*prompt, *answer]])
    labels = torch.tensor([[-100] * len(prompt) + answer])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = model(input_ids=ids, labels=labels).loss
        if float(loss.detach()) < 0.005:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.1
    model.save_pretrained(folder)


def prompt_of(desk_folder: Path, files: dict[str, str]) -> list[int]:
    """The tokens that the desk sends for QUESTION: with as many passages as leave room for an answer."""
    desk = read_desk(desk_folder, desk_yaml=DESK % "none")
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    index.store(db, desk.passages)
    hits = index.search(db, QUESTION, None, None)
    db.close()
    tokenizer, most = Tokenizer.load(files), CONTEXT - int(limits.SUPPORT_ANSWER_TOKENS.value)
    chats = [Chat(writing.prompt(desk.name, QUESTION, hits[:count]), add_generation_prompt=True) for count in (3, 2, 1)]
    return next(prompt for prompt in (render(tokenizer, chat) for chat in chats) if len(prompt) <= most)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("writing")
    store = Store(folder / "home")
    store.import_folder(write_llama(folder / "babbler"), "babbler")
    taught = write_llama(folder / "taught", hidden=64)
    files = {path.name: str(path) for path in taught.iterdir()}
    prompt = prompt_of(folder / "desk", files)
    tokenizer = Tokenizer.load(files)
    teach(taught, prompt, [*tokenizer.encode(TAUGHT), next(iter(tokenizer.eos_ids))])
    store.import_folder(taught, "taught")
    with daemon(folder / "home") as running:
        yield running


def answered(served: Daemon, model: str) -> dict[str, object]:
    folder = write_desk(served.log.parent / f"desk-{model}", desk_yaml=DESK % model)
    with live(folder, environment(served.log.parent / "home")) as desk, desk.customer() as http:
        return ask(http, QUESTION)


def test_what_a_model_was_taught_is_shown_as_far_as_a_passage_supports_it(served: Daemon) -> None:
    reply = answered(served, "taught")
    assert reply["text"] == "Tea keeps 12 months in a dry tin."
    made = reply["made"]
    assert (made["route"], made["written_by"], made["left_out"]) == ("passages", "model", 1)  # type: ignore[index]
    log = (served.log.parent / "desk-taught.log").read_text()
    assert "sentence_left_out overlap=0.00" in log
    assert "illness" not in log


def test_of_a_model_that_babbles_nothing_is_shown(served: Daemon) -> None:
    reply = answered(served, "babbler")
    assert reply["text"] == "Keep tea in a dry tin. It lasts 12 months."
    made = reply["made"]
    assert (made["route"], made["written_by"]) == ("passages", "passage")  # type: ignore[index]
