"""The compression job from its spec to the model in the store, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress_kit import Job, make_home
from kelm import LLM, SamplingParams
from kelm.compress import folder as checkpoints
from kelm.compress import texts
from kelm.compress.rounding import RoundingError, quantize
from kelm.errors import Cancelled, InvalidRequest, ModelFormatError, OutOfMemory, UnsupportedModel
from kelm.evaluate import evaluate
from kelm.evaluate.tasks import Row, Task
from kelm.store import Store, compression
from kelm.testing.checkpoints import Shape, write_llama

TEXT = "The quick brown fox jumps over the lazy dog.\nIt is, isn't it? Yes, it is!\n"
SETTINGS = {"threads": 1, "memory": 256 << 20}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "data").write_text(TEXT)
    return Job(make_home(tmp_path), folder)


def nothing_is_left(job: Job) -> None:
    """Neither in the job's folder nor in the store."""
    assert [path.name for path in job.folder.iterdir()] == ["data"]
    assert [str(name) for name in Store(job.home).names()] == ["nano:latest", "tiny:latest"]
    assert list((job.home / "blobs" / ".staging").iterdir()) == []


def perplexity(home: Path, name: str, text: str) -> float:
    llm = LLM(name, home=home, **SETTINGS)
    figures = evaluate(llm, Task("t", "perplexity", (Row(1, text),))).metrics
    llm.close()
    return figures["perplexity"]


@pytest.mark.parametrize(("bits", "precision", "most"), [(8, "int8", 0.02), (4, "int4 group 32", 0.5)])
def test_fewer_bits(bits, precision, most, job):
    result = job.run(bits=bits, name=f"tiny:int{bits}")
    assert result["model"] == f"tiny:int{bits}"
    store = Store(job.home)
    manifest, source = store.resolve(result["model"]), store.resolve("tiny")
    record = compression.read(store.paths(manifest))
    assert record is not None and result["digest"] == manifest.digest
    assert (record.source, record.source_digest, record.text) == ("tiny:latest", source.digest, "fox.txt")
    assert record.method == f"{precision} by rounding to nearest"
    before, after = record.before, record.after
    assert (before.precision, after.precision) == ("float32", precision) and before.layers == after.layers == 4
    assert before.parameters == after.parameters and before.size_bytes == source.size_bytes
    assert after.size_bytes + len(compression.encode(record)) == manifest.size_bytes < before.size_bytes
    assert before.perplexity == pytest.approx(perplexity(job.home, "tiny", TEXT))
    assert after.perplexity == pytest.approx(perplexity(job.home, result["model"], TEXT))
    assert abs(after.perplexity / before.perplexity - 1) < most and after.perplexity != before.perplexity
    llm = LLM(result["model"], home=job.home, **SETTINGS)
    assert (llm.info.weight_bytes, llm.info.dtype) == (after.weight_bytes, precision)
    assert after.weight_bytes < 0.6 * before.weight_bytes
    assert llm._engine._residency._ledger.line(f"weights:{llm.name}") == after.weight_bytes
    assert llm.generate("The quick", SamplingParams(max_tokens=5, temperature=0))[0].token_ids
    llm.close()
    assert 0 < record.weight_error < most / 2
    assert [path.name for path in job.folder.iterdir()] == ["data"]


def test_without_a_text_the_model_writes_one(job, monkeypatch):
    """Always the same, so the job's result is the same to the byte when it is taken up again."""
    monkeypatch.setattr(texts, "SAMPLED_BATCHES", 2)
    monkeypatch.setattr(texts, "SAMPLED_TOKENS", 24)
    first = job.run(bits=4, file=None)
    record = first["compression"]
    assert record["text"] == "32 texts that tiny:latest samples, with fixed seeds"
    done = [one.done for one in job.progress]
    assert done == sorted(done) and done[-1] == 100
    assert job.run(bits=4, file=None) == first
    assert record["before"]["perplexity"] < record["after"]["perplexity"], "its own text is what it knows best"
    notes = list(dict.fromkeys(one.note for one in job.progress))
    assert notes == [
        "measuring the source", "writing the smaller model", "measuring the smaller model",
        "bringing it into the store", "done",
    ]  # fmt: skip


def test_fewer_layers(job):
    result = job.run(drop_layers=2, name="tiny:drop2")
    record = compression.read(Store(job.home).paths(Store(job.home).resolve("tiny:drop2")))
    assert record is not None and record.removed == (1, 2) and len(record.influence) == 4
    assert record.method == "layers 1, 2 removed" and record.weight_error is None
    assert (record.before.layers, record.after.layers) == (4, 2)
    assert record.after.parameters < record.before.parameters
    assert [f"layer {n}: influence {value:.4f}" for n, value in enumerate(record.influence)] == job.lines[1:5]
    llm = LLM(result["model"], home=job.home, **SETTINGS)
    assert llm.info.parameters == record.after.parameters
    llm.close()


def test_both_at_once_and_layers_by_name(job):
    result = job.run(bits=8, drop=(0, 3))
    record = result["compression"]
    assert record["method"] == "layers 0, 3 removed; int8 by rounding to nearest"
    assert (record["after"]["layers"], record["after"]["precision"]) == (2, "int8") and record["influence"] == ()
    store = Store(job.home)
    small, big = (load_file(store.paths(store.resolve(n))["model.safetensors"]) for n in ("tiny:small", "tiny"))
    kept = "input_layernorm.weight"
    assert {name.split(".")[2] for name in small if "layers" in name} == {"0", "1"}
    assert torch.equal(small[f"model.layers.1.{kept}"], big[f"model.layers.2.{kept}"])


def test_shards(job, monkeypatch):
    """A large result is written in pieces, with an index; it is the same model."""
    whole = job.run(bits=8)
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 40_000)
    cut = job.run(bits=8)
    files = Store(job.home).resolve("tiny:small").files
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) > 3 and f"model-00001-of-{len(shards):05d}.safetensors" in shards
    assert "model.safetensors.index.json" in files
    for side in ("before", "after"):
        assert whole["compression"][side]["perplexity"] == cut["compression"][side]["perplexity"]


@pytest.mark.parametrize("stop", [1, 3, 5, 10, 15])
def test_asked_to_stop_it_leaves_nothing(stop, job):
    job.stop = stop
    with pytest.raises(Cancelled):
        job.run(bits=4, drop_layers=1)
    nothing_is_left(job)


def test_what_a_killed_process_left_is_swept(job):
    (job.folder / "compress" / "model").mkdir(parents=True)
    (job.folder / "compress" / "model" / "config.json").write_text("{")
    job.run(bits=8)
    assert [path.name for path in job.folder.iterdir()] == ["data"]


def test_a_model_that_memory_does_not_hold(job, tmp_path):
    """It is made all the same: what can't be measured is said not to be."""
    shape = Shape(hidden_size=512, intermediate_size=2048, num_hidden_layers=3, max_position_embeddings=64)
    Store(job.home).import_folder(write_llama(tmp_path / "big", 1, shape), "big")
    job.memory_bytes = 64 << 20
    record = job.run(model="big", name="big:int4", bits=4)["compression"]
    before, after = record["before"], record["after"]
    assert before["perplexity"] is before["weight_bytes"] is None and before["size_bytes"] > 45 << 20
    assert after["perplexity"] > 1 and after["weight_bytes"] < 8 << 20 and record["text"] == "fox.txt"
    assert "big:latest is not measured" in job.lines[0] and "bytes are missing" in job.lines[0]
    record = job.run(model="big", name="big:int4", bits=4, file=None)["compression"]
    assert record["text"] is record["after"]["perplexity"] is None and record["weight_error"] > 0
    with pytest.raises(OutOfMemory):
        job.run(model="big", name="big:drop", drop_layers=1)
    assert job.run(model="big", name="big:drop", drop=(1,))["compression"]["removed"] == (1,)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"bits": 4, "group": 64}, InvalidRequest, "--group 64 does not divide the 96 inputs of model.layers.0.mlp"),
        ({"bits": 4, "group": 64}, InvalidRequest, "try --group 32"),
        ({"bits": 8, "head": True}, InvalidRequest, "makes its logits with the embedding"),
        ({"bits": 3}, InvalidRequest, "--bits must be 8 or 4"),
        ({"drop_layers": 3}, InvalidRequest, "at most 2 can go"),
        ({"drop": (4,)}, InvalidRequest, "the layers of tiny are 0 to 3"),
        ({"bits": 8, "name": "tiny"}, InvalidRequest, "take another --name"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(changes, error, words, job):
    with pytest.raises(error) as caught:
        job.run(**changes)
    assert words in caught.value.message
    nothing_is_left(job)


def test_a_quantized_model_is_not_rounded_again(job):
    job.run(bits=8, name="tiny:int8")
    with pytest.raises(InvalidRequest, match=r"tiny:int8 is quantized already; .* \(tiny:latest\)"):
        job.run(model="tiny:int8", name="tiny:x", bits=4)


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"\xff", "a.txt", "a.txt:1: not UTF-8 at byte 1"),
        (b" \n", "a.txt", "there is no text in it"),
        (b"{", "a.jsonl", "a.jsonl:1: not JSON"),
        (b'{"text": "a", "label": "b"}', "a.jsonl", "rows are of kind classification"),
    ],
)
def test_texts_that_are_none(data, name, words, job):
    (job.folder / "data").write_bytes(data)
    with pytest.raises(InvalidRequest) as caught:
        job.run(bits=8, file=name)
    assert words in caught.value.message
    nothing_is_left(job)


def test_texts(job):
    """JSON Lines are rows of their own, a long plain text is cut between lines."""
    path = job.folder / "data"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert [row.source for row in texts.read_text(path, "a.jsonl").rows] == ["one", "two"]
    lines = [f"line {number} of a long text\n" for number in range(1000)]
    path.write_text("".join(lines))
    rows = texts.read_text(path, "a.txt").rows
    assert "".join(str(row.source) for row in rows) == "".join(lines) and 2 < len(rows) < 5
    assert all(str(row.source).startswith(f"line {row.line - 1} ") for row in rows)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_weights_that_are_not_numbers(value):
    weight = torch.zeros(40, 64)
    weight[39, 63] = value
    with pytest.raises(ModelFormatError, match=r"layers\.2\.x: there are weights that are not finite"):
        quantize("layers.2.x", weight, 4, 32, RoundingError())


def test_other_kinds_of_models(job, tmp_path):
    folder = write_llama(tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    for kind, words in [
        ({"model_type": "bert"}, "is an encoder (bert); kelm compress takes decoders"),
        ({"model_type": "falcon", "architectures": ["Falcon"]}, "model_type 'falcon' with Falcon is not native"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | kind))
        Store(job.home).import_folder(folder, "other")
        with pytest.raises(UnsupportedModel) as caught:
            job.run(model="other", name="other:int8", bits=8)
        assert words in caught.value.message
