"""/v1/embeddings, /classify, /score and /rerank of a running daemon against transformers on the same folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from daemon_kit import Daemon

TEXTS = ["The quick brown fox", "a", "It's 12:34, isn't it? Yes!"]


@pytest.fixture(scope="module")
def folder(served: Daemon) -> Path:
    return served.log.parent


def read(folder: Path, name: str, kind: Any, *texts: str) -> tuple[Any, Any]:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / name / "tokenizer.json"))
    model = kind.from_pretrained(folder / name).eval()
    ids = tokenizer(*texts, return_tensors="pt", return_token_type_ids=True)
    with torch.inference_mode():
        return model(**ids), ids


def test_embeddings(served: Daemon, folder: Path) -> None:
    answer = served.post("/v1/embeddings", {"model": "emb", "input": TEXTS})
    for text, item in zip(TEXTS, answer["data"], strict=True):
        hidden = read(folder, "emb", AutoModel, text)[0].last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(item["embedding"], hidden / np.linalg.norm(hidden), atol=1e-5)


def test_classify(served: Daemon, folder: Path) -> None:
    answer = served.post("/classify", {"model": "cls", "input": TEXTS})
    for text, item in zip(TEXTS, answer["data"], strict=True):
        probs = read(folder, "cls", AutoModelForSequenceClassification, text)[0].logits[0].softmax(-1).numpy()
        np.testing.assert_allclose(item["probs"], probs, atol=1e-5)
        assert item["label"] == ["bad", "fair", "good"][int(probs.argmax())]


def test_classify_tokens(served: Daemon, folder: Path) -> None:
    text = TEXTS[2]
    (item,) = served.post("/classify", {"model": "ner", "input": text})["data"]
    result, _ = read(folder, "ner", AutoModelForTokenClassification, text)
    probs = result.logits[0].softmax(-1).numpy()[1:-1]
    assert len(item["tokens"]) == len(probs)
    np.testing.assert_allclose([row["probs"] for row in item["tokens"]], probs, atol=1e-5)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "ner" / "tokenizer.json"))
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][1:-1]
    assert [(row["start"], row["end"]) for row in item["tokens"]] == offsets


def test_a_cross_encoder_scores_and_ranks(served: Daemon, folder: Path) -> None:
    query, documents = "quick fox", [*TEXTS, "lazy dog"]
    expected = []
    for document in documents:
        logits = read(folder, "cross", AutoModelForSequenceClassification, query, document)[0].logits
        expected.append(float(torch.sigmoid(logits)[0, 0]))
    scored = served.post("/score", {"model": "cross", "text_1": query, "text_2": documents})
    assert [item["score"] for item in scored["data"]] == pytest.approx(expected, abs=1e-5)
    ranked = served.post("/v1/rerank", {"model": "cross", "query": query, "documents": documents, "top_n": 2})
    best = sorted(range(len(documents)), key=lambda i: -expected[i])[:2]
    assert [result["index"] for result in ranked["results"]] == best


def test_an_embedder_scores_by_cosine(served: Daemon) -> None:
    vectors = [
        np.array(item["embedding"]) for item in served.post("/v1/embeddings", {"model": "emb", "input": TEXTS})["data"]
    ]
    scored = served.post("/v1/score", {"model": "emb", "text_1": TEXTS[0], "text_2": TEXTS})
    assert [item["score"] for item in scored["data"]] == pytest.approx(
        [float(vectors[0] @ v) for v in vectors], abs=1e-5
    )
