"""Variants in the worker: what they share, what the ledger is told, who leaves with whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kelm.errors import ModelNotFound, OutOfMemory, UnsupportedModel
from kelm.models import variant as variants
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta
from kelm.testing.checkpoints import write_llama
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.messages import Load, Sampling, Submit
from kelm.worker.engine import Engine
from kelm.worker.executors import Checkpoints, open_checkpoint
from kelm.worker.residency import Residency
from kelm.worker.settings import EngineSettings

MIB = 1 << 20
KIND = EngineSettings(memory_bytes=64 * MIB, kv_bytes=2 * MIB, slab_bytes=1 << 16)
EMBED = "model.embed_tokens.weight"
"""Tied: the embedding and the head."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("residency")
    store = Store(folder / "home", packaged=folder / "none")
    base = store.import_folder(write_llama(folder / "toy"), "toy")
    old = dict(Tensors(store.paths(base)))
    change = {EMBED: old[EMBED] + np.float32(0.5), "model.norm.weight": old["model.norm.weight"] * np.float32(2)}
    write_delta(folder / "d", base.digest, old, {**old, **change})
    store.add_version("toy", "x", layer=folder / "d")
    return store


def load(store: Store, name: str, **more: Any) -> Load:
    model = store.resolve(name)
    layers = list(store.layer_paths(model))
    base = "toy" if layers else None
    return Load(model=name, files=store.paths(model), base=base, layers=layers, **more)


def no_progress(done: int, total: int) -> None: ...


def test_the_ledger_counts_the_base_once_and_a_variants_own_bytes(store: Store) -> None:
    residency = Residency(KIND, open_checkpoint)
    base = residency.load(load(store, "toy"), no_progress)
    free = residency._ledger.granted_bytes
    made = residency.load(load(store, "toy@x"), no_progress)
    vocab, hidden = made.loaded.vocab, made.loaded.hidden
    own = 4 * (vocab * hidden + hidden)
    assert made.loaded.weight_bytes == own == residency._ledger.line("weights:toy@x")
    assert made.loaded.shared_bytes == base.loaded.weight_bytes - own
    assert residency._ledger.granted_bytes == free + own, "nothing but its own weights"
    mine, theirs = made.opened.decoder.weights, base.opened.decoder.weights
    changed = {name for name in theirs if mine[name] is not theirs[name]}
    assert changed == {"embed.weight", "final_norm.weight"} and mine.keys() == theirs.keys()
    assert residency.variants_of("toy") == ["toy@x"] and made.groups != base.groups
    residency.unload("toy@x")
    assert residency._ledger.granted_bytes == free
    residency.unload("toy")
    assert residency._ledger.granted_bytes == KIND.slabs * KIND.slab_bytes


def test_a_variant_that_does_not_fit_is_refused_before_it_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = Residency(KIND, open_checkpoint)
    residency.load(load(store, "toy"), no_progress)
    residency._ledger.budget_bytes = residency._ledger.granted_bytes + 100

    def made(*args: object) -> None:
        raise AssertionError("a tensor was made without a grant")

    monkeypatch.setattr(variants._Changed, "read", made)
    with pytest.raises(OutOfMemory, match="the model toy@x needs"):
        residency.load(load(store, "toy@x"), no_progress)
    assert residency._ledger.line("weights:toy@x") == 0 and list(residency.models) == ["toy"]


def test_a_variant_needs_its_base_and_an_executor_that_can(store: Store) -> None:
    with pytest.raises(ModelNotFound):
        Engine(KIND, open_checkpoint).load(load(store, "toy@x"))
    engine = Engine(KIND, open_hash_model(HashModel()))
    engine.load(Load(model="toy", files={}))
    with pytest.raises(UnsupportedModel, match="hash runs on the executor hash, which serves no variants"):
        engine.load(load(store, "toy@x"))


def test_the_base_takes_its_variants_along(store: Store) -> None:
    engine = Engine(KIND, open_checkpoint)
    for name in ("toy", "toy@x"):
        engine.load(load(store, name))
    engine.submit(Submit(pid=1, model="toy@x", prompt=[5], sampling=Sampling(seed=0, max_tokens=9)))
    engine.unload("toy")
    step = engine.step()
    assert step is not None and [(one.pid, one.finish) for one in step.tokens] == [(1, "abort")]
    assert engine._residency.models == {}
    engine.check()


def test_a_variant_is_in_the_precision_of_its_base(store: Store) -> None:
    residency = Residency(KIND, Checkpoints(replace(KIND, executor="torch")))
    residency.load(load(store, "toy", dtype="bfloat16"), no_progress)
    made = residency.load(load(store, "toy@x"), no_progress)
    assert made.loaded.dtype == "bfloat16"
    weights = made.opened.decoder.weights
    old = Tensors(store.paths(store.resolve("toy")))[EMBED]
    wanted = (old + np.float32(0.5)).astype(np.float32)
    assert str(weights["embed.weight"].dtype) == "torch.bfloat16"
    exact = variants.torch.from_numpy(wanted).bfloat16()
    assert variants.torch.equal(weights["embed.weight"], exact), (
        "the sum is rounded once, the base is not rounded first"
    )


def test_the_library_runs_a_variant(store: Store, tmp_path: Path) -> None:
    from kelm import LLM, SamplingParams

    params = SamplingParams(temperature=0, max_tokens=8)
    answers = {}
    for name in ("toy", "toy@x", "toy@x:1"):
        llm = LLM(name, home=store.home.root, dtype="float32", threads=1, memory="128MiB")
        answers[name] = llm.generate("hello", params)[0].token_ids
        assert (llm.info.shared_bytes > 0) == ("@" in name)
        llm.close()
        assert llm._engine._residency.models == {}, "the base is given back too"
    assert answers["toy"] != answers["toy@x"] == answers["toy@x:1"]
    with pytest.raises(ModelNotFound, match="no model org/toy@x"):
        LLM("org/toy@x", home=store.home.root)
