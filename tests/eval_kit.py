"""Task files, and a home with a tiny decoder and a tiny classifier, for the tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from kelm.store import Store
from kelm.testing.checkpoints import Shape, write_llama
from kelm.testing.tokenizers import write as write_tokenizer

SETTINGS: dict[str, Any] = {"dtype": "float32", "threads": 1, "memory": 256 << 20}
LABELS = ("billing", "delivery", "退货")


def task_file(folder: Path, rows: Iterable[Mapping[str, Any]], name: str = "task.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_home(folder: Path) -> Path:
    """A store with ``tiny`` (a Llama with a context of 64) and ``labels`` (a BERT that classifies)."""
    home = folder / "home"
    Store(home).import_folder(write_llama(folder / "llama", 3, Shape(max_position_embeddings=64)), "tiny")
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=430, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, initializer_range=0.5, id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
    write_tokenizer(folder / "bert", "word_piece")
    Store(home).import_folder(folder / "bert", "labels")
    return home
