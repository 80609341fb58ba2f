"""Perplexity and likeliest labels against transformers, over the same checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from eval_kit import LABELS, SETTINGS, make_home, task_file
from kelm import LLM
from kelm.evaluate import evaluate, read
from kelm.evaluate.scoring import answer_logprobs

TEXTS = ["The quick brown fox jumps over the lazy dog.", "怎么卸载一个模型?", "naïve café " * 3, "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    llm = LLM("tiny", home=folder / "home", **SETTINGS)
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def reference(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "llama").eval()


@torch.no_grad()
def logprobs(model: transformers.PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """[len(ids) - 1]: of each token but the first."""
    scores = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].double(), -1)
    return scores[torch.arange(len(ids) - 1), ids[1:]]


def test_perplexity_is_transformers(llm: LLM, reference: transformers.PreTrainedModel, tmp_path: Path) -> None:
    got = evaluate(llm, read(task_file(tmp_path, [{"text": text} for text in TEXTS])))
    total, tokens = 0.0, 0
    for text in TEXTS:
        ids = [llm.tokenizer.bos_id, *llm.tokenizer.encode(text)]
        assert len(ids) <= 64
        total += float(logprobs(reference, ids).sum())
        tokens += len(ids) - 1
    size = sum(len(text.encode()) for text in TEXTS)
    assert got.counts == {"tokens": tokens, "bytes": size}
    assert got.metrics["perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-4)
    assert got.metrics["byte_perplexity"] == pytest.approx(math.exp(-total / size), rel=1e-4)
    assert got.metrics["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-4)


def test_a_text_longer_than_the_context(llm: LLM, reference: transformers.PreTrainedModel, tmp_path: Path) -> None:
    """Windows of 64 tokens that share their border token; every token is scored once."""
    text = "The quick brown fox, isn't it? " * 12
    ids = [llm.tokenizer.bos_id, *llm.tokenizer.encode(text)]
    assert len(ids) > 130
    windows = [ids[at : at + 64] for at in range(0, len(ids) - 1, 63)]
    want = torch.cat([logprobs(reference, window) for window in windows])
    assert len(want) == len(ids) - 1
    got = evaluate(llm, read(task_file(tmp_path, [{"text": text}])))
    assert got.counts["tokens"] == len(want)
    assert got.metrics["perplexity"] == pytest.approx(math.exp(-float(want.mean())), rel=1e-4)


def test_a_decoder_gives_the_likeliest_label(llm: LLM, reference: transformers.PreTrainedModel, tmp_path: Path) -> None:
    """Labels of several tokens, one the beginning of another, and texts that end in spaces."""
    labels = ["the", "the lazy dog", "怎么", "jumps"]
    texts = [f"{words} {number}:{'  ' * (number % 2)}" for number in range(6) for words in ("fox", "世界")]
    rows = [{"text": text, "label": labels[i % 4]} for i, text in enumerate(texts)]
    got = evaluate(llm, read(task_file(tmp_path, rows)))
    given = []
    for text in texts:
        bare = [llm.tokenizer.bos_id, *llm.tokenizer.encode(text.rstrip())]
        sums = []
        for label in labels:
            ids = [*bare, *llm.tokenizer.encode(f" {label}")]
            sums.append(float(logprobs(reference, ids)[len(bare) - 1 :].sum()))
        given.append(labels[sums.index(max(sums))])
        assert answer_logprobs(llm, [text], labels)[0] == pytest.approx(dict(zip(labels, sums, strict=True)), rel=1e-4)
    want = [[sum(r["label"] == a and g == b for r, g in zip(rows, given, strict=True)) for b in labels] for a in labels]
    assert [list(row) for row in got.confusion] == want
    assert got.n == len(texts) and [row.support for row in got.classes] == [3, 3, 3, 3]


def test_a_classifiers_labels_are_transformers(folder: Path, tmp_path: Path) -> None:
    llm = LLM("labels", home=folder / "home", **SETTINGS)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "bert").eval()
    words = ["quick", "brown fox", "lazy dog", "tag in brackets", "jumps over", "the", "main argument", "spaces"]
    texts = [f"{one} {other}" for one in words for other in words[:3]]
    rows = [{"text": text, "label": LABELS[i % 3]} for i, text in enumerate(texts)]
    with torch.no_grad():
        given = [LABELS[model(torch.tensor([llm.tokenizer.encode(text)])).logits.argmax()] for text in texts]
    assert len(set(given)) > 1
    got = evaluate(llm, read(task_file(tmp_path, rows)))
    llm.close()
    hits = sum(row["label"] == label for row, label in zip(rows, given, strict=True))
    assert got.metrics["accuracy"] == got.metrics["micro_f1"] == pytest.approx(hits / len(rows))
    for i, row in enumerate(got.classes):
        assert sum(cells[i] for cells in got.confusion) == given.count(row.label)
