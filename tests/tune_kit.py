"""A home with a tiny encoder and a tiny decoder, data for them, and a job's context in this process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import BertModel

from daemon_kit import write_bert, write_llama
from kelm.context import Context
from kelm.store import Store
from kelm.wire.jobs import Progress, Tune

WORDS = {"greeting": "hello world the quick", "parting": "brown fox jumps over", "thanks": "lazy dog said something"}


def make_store(folder: Path) -> Store:
    """emb: an encoder without a head; toy: a decoder that chats. Random weights."""
    store = Store(folder / "home")
    store.import_folder(write_bert(folder / "emb", BertModel, []), "emb")
    store.import_folder(write_llama(folder / "toy"), "toy")
    return store


def intents(count: int = 8) -> bytes:
    """A CSV whose labels can be told from the words, ``count`` examples of each."""
    rows = ["text,label"]
    for label, words in WORDS.items():
        phrases = list(itertools.product(words.split(), repeat=3))
        rows += [f"{' '.join(phrases[i * 5 % len(phrases)])},{label}" for i in range(count)]
    return ("\n".join(rows) + "\n").encode()


def chats(count: int = 4) -> bytes:
    """Conversations of one question and one answer."""
    rows = [
        {"messages": [{"role": "user", "content": f"what is {i}?"}, {"role": "assistant", "content": f"{i * 7} it is"}]}
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Told:
    """What a job said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[Progress] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def context(
    store: Store,
    data: bytes,
    told: Told | None = None,
    *,
    pid: int = 7,
    memory_bytes: int = 1 << 30,
    stopping: Callable[[], bool] = lambda: False,
) -> Context:
    told = told or Told()
    folder = store.home.root / "jobs" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").write_bytes(data)
    return Context(
        pid=pid,
        home=store.home.root,
        folder=folder,
        threads=1,
        memory_bytes=memory_bytes,
        send=told.progress.append,
        line=told.lines.append,
        stopping=stopping,
    )


def spec(base: str, file: str, **given: Any) -> Tune:
    return Tune(base=base, variant=given.pop("variant", "v"), file=file, **given)


def weights_digest(store: Store, name: str) -> str:
    """Of the adapter of a variant's published version."""
    history = store.history(name)
    return history.version(history.current).layers[-1].files["adapter_model.safetensors"].digest
