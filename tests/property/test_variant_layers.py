"""Layers over a base give what a plain numpy reference gives, whatever their shapes, kinds and order; and a low-rank
layer keeps a row's bits whatever its company."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from decoder_configs import build
from parity_kit import Arena, save, scratch, step

from kelm.models.decoder import LoadedDecoder
from kelm.models.linear import Part, low_rank
from kelm.models.loader import load
from kelm.models.variant import lay_over
from kelm.ops import reference as ops
from kelm.store import Store
from kelm.store.difference import Tensors, write_delta
from kelm.testing.checkpoints import Shape, write_llama

F = np.float32
BASES = {
    "grouped": Shape(hidden_size=12, intermediate_size=20, num_attention_heads=3, num_key_value_heads=1),
    "square": Shape(hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=4),
}
SLOTS = {
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "out": ["self_attn.o_proj"],
    "up": ["mlp.gate_proj", "mlp.up_proj"],
    "down": ["mlp.down_proj"],
}


@cache
def base_of(name: str) -> tuple[Store, LoadedDecoder, dict[str, np.ndarray]]:
    folder = scratch()
    store = Store(folder / "home", packaged=folder / "none")
    store.import_folder(write_llama(folder / "base", 1, BASES[name]), "toy")
    files = store.paths(store.resolve("toy"))
    return store, load(files), dict(Tensors(files))


class Twin:
    """The reference: tensors and low-rank products, one after the other, in numpy."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = {name: value.astype(F) for name, value in tensors.items()}
        self.products: dict[str, np.ndarray] = {}

    def whole(self, name: str, value: np.ndarray) -> None:
        self.tensors[name] = value
        self.products.pop(name, None)

    def add(self, name: str, value: np.ndarray) -> None:
        self.tensors[name] = self.tensors[name] + value

    def low_rank(self, name: str, product: np.ndarray) -> None:
        self.products[name] = self.products.get(name, 0) + product


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F)


def delta_layer(rng: np.random.Generator, twin: Twin, names: list[str], path: Path, digest: str) -> Path:
    """Each name in one of the three ways, in a random float type."""
    held: dict[str, np.ndarray] = {}
    for name in names:
        shape = twin.tensors[name].shape
        way, kind = rng.integers(3), rng.choice([F, np.float16])
        if way == 0:
            held[name] = random(rng, *shape).astype(kind)
            twin.whole(name, held[name].astype(F))
        elif way == 1:
            held[f"{name}.delta"] = random(rng, *shape).astype(kind)
            twin.add(name, held[f"{name}.delta"].astype(F))
        else:
            size = int(np.prod(shape))
            at = rng.choice(size, rng.integers(0, size + 1), replace=False)
            held[f"{name}.indices"], held[f"{name}.values"] = at, random(rng, len(at)).astype(kind)
            sparse = np.zeros(size, F)
            sparse[at] = held[f"{name}.values"]
            twin.add(name, sparse.reshape(shape))
    save_file(held, path, {"format": "kelm-delta", "base": digest})
    return path


def adapter_layer(rng: np.random.Generator, twin: Twin, names: list[str], folder: Path) -> Path:
    """Low-rank on the linears among ``names``, with ranks and alphas of their own; norms are saved whole."""
    folder.mkdir()
    config: dict[str, object] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": bool(rng.integers(2))}
    ranks, alphas, held = {}, {}, {}
    for name in names:
        module, shape = name.removesuffix(".weight"), twin.tensors[name].shape
        if len(shape) == 1:
            held[f"base_model.model.{name}"] = random(rng, *shape)
            twin.whole(name, held[f"base_model.model.{name}"])
            continue
        ranks[module], alphas[module] = rank, alpha = int(rng.integers(1, 20)), float(rng.integers(1, 9))
        a, b = random(rng, rank, shape[1]), random(rng, shape[0], rank)
        held[f"base_model.model.{module}.lora_A.weight"] = a
        held[f"base_model.model.{module}.lora_B.weight"] = b
        twin.low_rank(name, alpha / (rank**0.5 if config["use_rslora"] else rank) * (b @ a))
    save_file(held, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": ranks, "alpha_pattern": alphas}))
    return folder


def parts_of(number: int, slot: str) -> list[str]:
    return [f"model.layers.{number}.{module}.weight" for module in SLOTS[slot]]


@pytest.mark.parametrize("name", BASES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1 << 30), kinds=st.lists(st.sampled_from(["delta", "adapter"]), min_size=1, max_size=4))
def test_layers_are_what_numpy_makes_of_them(name: str, seed: int, kinds: list[str]) -> None:
    store, base, tensors = base_of(name)
    rng, twin = np.random.default_rng(seed), Twin(tensors)
    digest, touched = store.resolve("toy").digest, set()
    with TemporaryDirectory() as folder:
        for number, kind in enumerate(kinds):
            picked = [str(one) for one in rng.choice(sorted(tensors), rng.integers(1, 6), replace=False)]
            if kind == "adapter":
                picked = [one for one in picked if "embed" not in one] or ["model.norm.weight"]
                layer = adapter_layer(rng, twin, picked, Path(folder) / str(number))
            else:
                layer = delta_layer(rng, twin, picked, Path(folder) / str(number), digest)
                touched |= set(picked)
            touched |= {one for one in picked if len(tensors[one].shape) == 1}
            store.add_version("toy", f"v{seed}", layer=layer, parent=number)
        model = store.resolve(f"toy@v{seed}")
        mine = lay_over(base, store.paths(model.base), store.paths(model), store.layer_paths(model)).make(None)
    store.remove(f"toy@v{seed}")
    for number in range(2):
        for slot in SLOTS:
            names = parts_of(number, slot)
            weight = mine.weights[f"layers.{number}.{slot}.weight"]
            wanted = np.concatenate([twin.tensors[one] for one in names])
            np.testing.assert_array_equal(weight.numpy(), wanted)
            shared = weight is base.weights[f"layers.{number}.{slot}.weight"]
            assert shared == touched.isdisjoint(names), f"{names}: {touched}"
            _check_product(mine, twin, number, slot)
        norm = mine.weights[f"layers.{number}.mlp_norm.weight"].numpy()
        np.testing.assert_array_equal(norm, twin.tensors[f"model.layers.{number}.post_attention_layernorm.weight"])
    np.testing.assert_array_equal(mine.weights["embed.weight"].numpy(), twin.tensors["model.embed_tokens.weight"])
    own = [w for key, w in mine.weights.items() if base.weights.get(key) is not w]
    assert mine.info.weight_bytes == sum(w.numel() * w.itemsize for w in own)
    assert mine.info.shared_bytes == base.info.weight_bytes - sum(
        base.weights[key].nbytes for key in base.weights if mine.weights[key] is not base.weights[key]
    )


def _check_product(mine: LoadedDecoder, twin: Twin, number: int, slot: str) -> None:
    names = parts_of(number, slot)
    a = mine.weights.get(f"layers.{number}.{slot}.low_rank_a")
    if not any(one in twin.products for one in names):
        assert a is None
        return
    made = (mine.weights[f"layers.{number}.{slot}.low_rank_b"] @ a).numpy()
    wanted = np.concatenate([twin.products.get(one, np.zeros_like(twin.tensors[one])) for one in names])
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1 << 30),
    blocks=st.integers(1, 5),
    width=st.integers(1, 130),
    rows=st.integers(1, 90),
    data=st.data(),
)
def test_a_rows_low_rank_part_depends_on_that_row_only(dtype, seed, blocks, width, rows, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    ranks = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3), label="ranks")
    parts = [
        Part(0, torch.randn(rank, width, generator=generator), torch.randn(rows, rank, generator=generator), 0.5)
        for rank in ranks
    ]
    a, b = low_rank(parts, rows)
    x, y = torch.randn(16 * blocks, width, generator=generator), torch.randn(16 * blocks, rows, generator=generator)
    y = y.to(dtype)
    together = ops.add_low_rank(y, x, a, b)
    assert together.dtype == dtype
    order = torch.randperm(len(x), generator=generator)
    assert torch.equal(ops.add_low_rank(y[order], x[order], a, b), together[order])
    at = torch.tensor([seed % 16])
    lone_x, lone_y = torch.zeros(16, width).index_copy(0, at, x[-1:]), torch.zeros(16, rows, dtype=dtype)
    assert torch.equal(ops.add_low_rank(lone_y.index_copy(0, at, y[-1:]), lone_x, a, b)[at[0]], together[-1])
    wanted = y.double() + 0.5 * sum(x.double() @ part.a.double().T @ part.b.double().T for part in parts)
    torch.testing.assert_close(together.double(), wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=2e-2)


@cache
def adapted(family: str, dtype: str) -> LoadedDecoder:
    folder = scratch()
    store = Store(folder / "home", packaged=folder / "none")
    save(build(family, 1), folder / "base")
    store.import_folder(folder / "base", "toy")
    files = store.paths(store.resolve("toy"))
    rng, twin = np.random.default_rng(3), Twin(dict(Tensors(files)))
    names = [name for name in twin.tensors if "_proj" in name and name.endswith("weight")]
    store.add_version("toy", "x", layer=adapter_layer(rng, twin, names, folder / "adapter"))
    model = store.resolve("toy@x")
    return lay_over(load(files, dtype), files, store.paths(model), store.layer_paths(model)).make(None)


def attach(decoder: LoadedDecoder, seed: int) -> Arena:
    arena = Arena(decoder.groups, 2000, seed)
    decoder.attach([kv.to(decoder.dtype) for kv in arena.kv])
    return arena


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_a_variants_bits_in_company_and_in_chunks(family: str, dtype: str, data: st.DataObject) -> None:
    decoder = adapted(family, dtype)
    ids = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=80), label="sequence")
    wanted = step(decoder, attach(decoder, 0), {0: (ids, 0)})
    arena = attach(decoder, data.draw(st.integers(0, 1 << 30), label="seed"))
    got, at, other = [], 0, 0
    while at < len(ids):
        size = data.draw(st.integers(1, len(ids) - at), label="chunk")
        beside = data.draw(st.integers(1, 30), label="company")
        logits = step(decoder, arena, {7: (list(range(beside)), other), 0: (ids[at : at + size], at)})
        got.append(logits[beside:])
        at, other = at + size, other + beside
    assert np.array_equal(np.concatenate(got), wanted)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 30), share=st.floats(0, 1), shape=st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_a_difference_leads_from_old_to_new(seed: int, share: float, shape: list[int]) -> None:
    rng = np.random.default_rng(seed)
    old, new = random(rng, *shape), random(rng, *shape)
    kept = rng.random(shape) >= share
    new = np.where(kept, old, new + np.where(new == old, 1, 0).astype(F))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        write_delta(path, "sha256:0", {"t": old, "gone": old}, {"t": new, "added": new})
        made = load_file(path)
    changed = int((old != new).sum())
    assert np.array_equal(made.pop("added"), new)
    assert set(made) == (set() if not changed else {"t.indices", "t.values"} if 3 * changed < old.size else {"t.delta"})
    again = old.copy()
    if "t.indices" in made:
        again.reshape(-1)[made["t.indices"]] += made["t.values"]
    elif changed:
        again += made["t.delta"]
    np.testing.assert_allclose(again, new, rtol=1e-6, atol=1e-6)
