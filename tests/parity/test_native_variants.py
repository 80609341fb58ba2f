"""Variants over a native base against the torch decoder's: adapters as peft saves them, deltas as Kelm writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_configs import build
from native_kit import attach, open_torch, pool
from parity_kit import save, step
from test_native_parity import error
from test_variant_parity import LORAS, adapted

from kelm.errors import ModelFormatError
from kelm.models import variant as torch_variant
from kelm.models.native import variant as native_variant
from kelm.models.native.decoder import NativeDecoder
from kelm.models.native.opening import load_native, outline
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's and transformers' own, of one another
IDS = np.random.default_rng(3).integers(0, 97, 60).tolist()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", packaged=tmp_path / "none")


def over_native(store: Store, name: str) -> tuple[NativeDecoder, NativeDecoder, int]:
    """The base, the variant, and what the latter said that it would take."""
    model = store.resolve(name)
    found = outline(store.paths(model.base), "bfloat16")
    base = load_native(found, pool(), lambda done, total: None)
    laid = native_variant.lay_over(base, found, store.paths(model), store.layer_paths(model), pool())
    return base, laid.make(lambda done, total: None), laid.own_bytes


def over_torch(store: Store, name: str, dtype: str) -> Any:
    model = store.resolve(name)
    base = store.paths(model.base)
    laid = torch_variant.lay_over(open_torch(base, dtype), base, store.paths(model), store.layer_paths(model))
    return laid.make(None)


def run(decoder: Any) -> np.ndarray:
    return step(decoder, attach(decoder, 400), {0: (IDS, 0)})


def assert_as_good(mine: np.ndarray, store: Store, name: str) -> None:
    wanted = run(over_torch(store, name, "float32"))
    assert error(mine, wanted) < 2 * error(run(over_torch(store, name, "bfloat16")), wanted) + 0.002


@pytest.mark.parametrize("case", LORAS)
def test_an_adapter(case: str, store: Store, tmp_path: Path) -> None:
    family, config = LORAS[case]
    model = build(family, 1)
    save(model, tmp_path / "base")
    store.import_folder(tmp_path / "base", "toy")
    adapted(model, tmp_path / "adapter", **config)
    store.add_version("toy", "x", layer=tmp_path / "adapter")
    base, variant, own_bytes = over_native(store, "toy@x")
    assert error(run(base), run(variant)) > 0.1, "the adapter does nothing: the test could not fail"
    assert_as_good(run(variant), store, "toy@x")
    assert variant.info.weight_bytes == own_bytes
    shared = [name for name, one in variant.weights.matrices.items() if one is base.weights.matrices.get(name)]
    assert set(shared) == set(base.weights.matrices), "every packed matrix is the base's own"


@pytest.mark.parametrize("dense", [True, False])
def test_a_delta(dense: bool, store: Store, tmp_path: Path) -> None:
    """Some linears, a norm and the embedding change; the rest is shared."""
    save(build("qwen2", 1), tmp_path / "base")
    base = store.import_folder(tmp_path / "base", "toy")
    old = dict(Tensors(store.paths(base)))
    rng = np.random.default_rng(0)
    new = dict(old)
    for name in old:
        if (
            "layers.0.mlp" in name
            or "layers.1.self_attn.k_proj" in name
            or name.endswith(("norm.weight", "embed_tokens.weight"))
        ):
            change = rng.standard_normal(old[name].shape).astype(np.float32) * 0.3
            new[name] = old[name] + (change if dense else change * (rng.random(old[name].shape) < 0.02))
    write_delta(tmp_path / "d", base.digest, old, new)
    store.add_version("toy", "x", layer=tmp_path / "d")
    below, variant, own_bytes = over_native(store, "toy@x")
    assert error(run(below), run(variant)) > 0.1
    assert_as_good(run(variant), store, "toy@x")
    mine, theirs = variant.weights.matrices, below.weights.matrices
    assert mine["layers.0.qkv.weight"] is theirs["layers.0.qkv.weight"]
    assert mine["layers.0.up.weight"] is not theirs["layers.0.up.weight"]
    assert variant.info.weight_bytes == own_bytes
    assert variant.info.shared_bytes + own_bytes == below.info.weight_bytes


def test_a_layer_over_layers(store: Store, tmp_path: Path) -> None:
    """An adapter, and a whole tensor on top that takes its place."""
    model = build("llama", 1)
    save(model, tmp_path / "base")
    base = store.import_folder(tmp_path / "base", "toy")
    old = dict(Tensors(store.paths(base)))
    adapted(model, tmp_path / "adapter", r=4, target_modules=["v_proj", "down_proj"])
    store.add_version("toy", "x", layer=tmp_path / "adapter")
    name = "model.layers.0.mlp.down_proj.weight"
    write_delta(tmp_path / "d", base.digest, old, {**old, name: old[name] * np.float32(-1)})
    store.add_version("toy", "x", layer=tmp_path / "d")
    _, variant, _ = over_native(store, "toy@x")
    assert_as_good(run(variant), store, "toy@x")


def test_a_layer_for_another_model(store: Store, tmp_path: Path) -> None:
    save(build("llama", 1), tmp_path / "base")
    store.import_folder(tmp_path / "base", "toy")
    adapted(build("llama", 2), tmp_path / "adapter", r=4, target_modules=["v_proj"])
    files = {p.name: str(p) for p in (tmp_path / "adapter").iterdir()}
    found = outline(store.paths(store.resolve("toy")), "bfloat16")
    base = load_native(found, pool(), lambda done, total: None)
    with pytest.raises(ModelFormatError, match="has the shape"):
        native_variant.lay_over(base, found, store.paths(store.resolve("toy")), [files], pool())
