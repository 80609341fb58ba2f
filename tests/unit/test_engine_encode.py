"""Encoders behind the engine: vectors on the wire, several models at once, and tasks that a model doesn't have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from kelm.errors import InvalidRequest, ModelNotFound, UnsupportedModel
from kelm.testing.drive import Driver
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.messages import Encode, Load, Sampling, Submit
from kelm.worker.executors import open_checkpoint
from kelm.worker.settings import EngineSettings

KIND = EngineSettings(memory_bytes=64 << 20, kv_bytes=1 << 20, slab_bytes=1 << 16)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[transformers.BertModel, dict[str, str]]:
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = transformers.BertModel(config).eval()
    folder: Path = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return model, {path.name: str(path) for path in folder.iterdir()}


def test_embeddings_are_transformers_and_are_counted(bert: tuple[transformers.BertModel, dict[str, str]]) -> None:
    model, files = bert
    driver = Driver(KIND, open_checkpoint, files)
    assert driver.loaded.kind == "encoder"
    inputs = [[5, 6, 7], [1] * 30]
    got = driver.engine.encode(Encode(pid=3, model="model", task="embed", inputs=inputs, pooling="mean"))
    assert (got.pid, got.shapes) == (3, [[32], [32]])
    for ids, data in zip(inputs, got.data, strict=True):
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        wanted = (mean / mean.norm()).numpy()
        np.testing.assert_allclose(np.frombuffer(data, "<f4"), wanted, atol=1e-5)
    step = driver.engine.step()
    assert step is not None
    assert step.counters.steps == {driver.loaded.executor: 1}


def test_a_model_has_its_own_tasks_only(bert: tuple[transformers.BertModel, dict[str, str]]) -> None:
    driver = Driver(KIND, open_checkpoint, bert[1])
    with pytest.raises(InvalidRequest, match="does not generate"):
        driver.engine.submit(Submit(pid=1, model="model", prompt=[1], sampling=Sampling(seed=0, max_tokens=1)))
    with pytest.raises(InvalidRequest, match="classify"):
        driver.engine.encode(Encode(pid=1, model="model", task="classify", inputs=[[1]]))
    with pytest.raises(ModelNotFound):
        driver.engine.encode(Encode(pid=1, model="other", task="embed", inputs=[[1]]))
    decoder = Driver(KIND, open_hash_model(HashModel()))
    with pytest.raises(UnsupportedModel, match="no task embed"):
        decoder.engine.encode(Encode(pid=1, model="model", task="embed", inputs=[[1]]))


def test_two_models_take_turns_and_never_share_a_step() -> None:
    """The same arena, blocks of two sizes; each model's answers are those it gives alone."""
    model = HashModel()
    rows: list[int] = []
    model.fault = lambda batch: rows.append(len(batch.spans))
    driver = Driver(KIND, open_hash_model(model))
    driver.engine.load(Load(model="other", files={}))
    greedy = Sampling(seed=0, max_tokens=5, temperature=0.0)
    work = [Submit(pid=n, model=("model", "other")[n % 2], prompt=[n + 1] * 20, sampling=greedy) for n in range(4)]
    heard = driver.run(work)
    assert rows == [2] * 10, "two sequences a step, one model at a time"
    assert [begun.pids for begun in heard.begun] == [[0, 2], [1, 3]] * 5
    alone = Driver(KIND, open_hash_model(HashModel())).run([work[0]])
    assert heard.tokens[(0, 0)] == alone.tokens[(0, 0)]


def test_an_encoder_keeps_its_precision_where_decoders_are_rounded(
    bert: tuple[transformers.BertModel, dict[str, str]],
) -> None:
    opened = open_checkpoint(Load(model="m", files=bert[1], dtype="int8"), lambda done, total: None)
    assert (opened.loaded.kind, opened.loaded.dtype) == ("encoder", "float32")
