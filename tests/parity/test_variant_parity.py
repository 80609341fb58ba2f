"""A variant's numbers are those of peft and transformers, on adapters as peft saves them, through the store."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from decoder_configs import build
from encoder_configs import build as build_encoder
from encoder_configs import save as save_encoder
from encoder_configs import texts
from parity_kit import Arena, save, step

from kelm.errors import KelmError, ModelFormatError, UnsupportedModel
from kelm.models.decoder import LoadedDecoder
from kelm.models.encoder import LoadedEncoder
from kelm.models.loader import Model, load
from kelm.models.variant import lay_over
from kelm.store import Store
from kelm.wire.messages import Encode

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's and transformers' own, of one another
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", packaged=tmp_path / "none")


def serve(store: Store, name: str, dtype: str = "float32") -> Model:
    """The variant over its base, as a worker makes it."""
    model = store.resolve(name)
    base = store.paths(model.base)
    return lay_over(load(base, dtype), base, store.paths(model), store.layer_paths(model)).make(None)


def liven(model: torch.nn.Module, seed: int) -> None:
    """An adapter as if trained: B is not zero, and its part of the result can't be missed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.5 / p.shape[-1] ** 0.5)
            elif p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    model.eval()


def adapted(model: transformers.PreTrainedModel, folder: Path, **config: object) -> peft.PeftModel:
    made = peft.get_peft_model(model, peft.LoraConfig(**config))
    liven(made, 5)
    made.save_pretrained(folder)
    return made


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: Sequence[int]) -> np.ndarray:
    return model(torch.tensor([ids])).logits[0].numpy()


def run(decoder: LoadedDecoder, ids: list[int]) -> np.ndarray:
    arena = Arena(decoder.groups, 2000)
    decoder.attach(arena.kv)
    return step(decoder, arena, {0: (ids, 0)})


def assert_same(mine: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(mine - theirs).max() < 1e-4 * theirs.std()


LORAS: dict[str, tuple[str, dict[str, object]]] = {
    "all linears": ("llama", {"r": 5, "lora_alpha": 12, "target_modules": ALL}),
    "part of a slot": ("llama", {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "gate_proj"]}),
    "rslora": ("llama", {"r": 9, "lora_alpha": 4, "use_rslora": True, "target_modules": ALL}),
    "patterns": (
        "qwen2",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ALL,
            "rank_pattern": {"down_proj": 17, "layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"up_proj": 3, "layers.0.self_attn.q_proj": 40},
        },
    ),
    "biases": ("qwen2", {"r": 4, "target_modules": ["q_proj"], "bias": "all"}),
    "gpt2's conv1d": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "a norm that adds one": ("gemma3_text", {"r": 4, "target_modules": ALL, "modules_to_save": ["norm"]}),
}


@pytest.mark.parametrize("case", LORAS)
def test_decoder_with_an_adapter(case: str, store: Store, tmp_path: Path) -> None:
    family, config = LORAS[case]
    model = build(family, 1)
    save(model, tmp_path / "base")
    base = store.import_folder(tmp_path / "base", "toy")
    ids = [random.Random(3).randrange(model.config.vocab_size) for _ in range(40)]
    plain = logits_of(model, ids)
    theirs = adapted(model, tmp_path / "adapter", **config)
    store.add_version("toy", "x", layer=tmp_path / "adapter")
    wanted = logits_of(theirs, ids)
    assert np.abs(plain - wanted).max() > 0.1 * wanted.std(), "the adapter does nothing: the test could not fail"
    assert_same(run(serve(store, "toy@x"), ids), wanted)
    assert_same(run(serve(store, "toy@x"), ids), logits_of(theirs.merge_and_unload(), ids))
    assert_same(run(load(store.paths(base)), ids), plain)


def test_an_untied_head_is_adapted_and_saved_whole(store: Store, tmp_path: Path) -> None:
    seed = next(seed for seed in range(20) if not build("llama", seed).config.tie_word_embeddings)
    for turn, config in enumerate(({"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head", "embed_tokens"]})):
        model = build("llama", seed)
        save(model, tmp_path / f"base{turn}")
        store.import_folder(tmp_path / f"base{turn}", f"toy{turn}")
        theirs = adapted(model, tmp_path / f"adapter{turn}", r=4, **{"target_modules": ["q_proj"], **config})
        store.add_version(f"toy{turn}", "x", layer=tmp_path / f"adapter{turn}")
        assert_same(run(serve(store, f"toy{turn}@x"), [5, 9, 60, 3]), logits_of(theirs, [5, 9, 60, 3]))


def test_a_bare_encoder_becomes_a_classifier(store: Store, tmp_path: Path) -> None:
    """The base is an embedding model without the prefix that peft's names have; the head is new."""
    for family in ("bert", "roberta", "distilbert"):
        model = build_encoder(family, "classify", 2)
        save_encoder(model.base_model, tmp_path / f"{family}-base")
        store.import_folder(tmp_path / f"{family}-base", family)
        pooler = ["pooler"] if family == "bert" else []
        target = ["q_lin", "lin1"] if family == "distilbert" else ["query", "value", "output.dense"]
        head = ["pre_classifier", "classifier"] if family == "distilbert" else ["classifier", *pooler]
        folder = tmp_path / f"{family}-adapter"
        theirs = adapted(model, folder, r=3, target_modules=target, modules_to_save=head)
        with pytest.raises(ModelFormatError, match=r"is not a tensor of.*config\.json beside it"):
            store.add_version(family, "mood", layer=folder)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        store.add_version(family, "mood", layer=folder, overrides={"config.json": folder / "config.json"})
        mine = serve(store, f"{family}@mood")
        assert isinstance(mine, LoadedEncoder) and mine.tasks == ("embed", "classify")
        inputs = texts(model, 5)
        got = mine.run(Encode(pid=1, model="m", task="classify", inputs=inputs))
        with torch.no_grad():
            for ids, probabilities in zip(inputs, got, strict=True):
                made = theirs(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]
                wanted = made.sigmoid() if len(made) == 1 else made.softmax(-1)
                np.testing.assert_allclose(probabilities, wanted, atol=1e-5)


REFUSED = {
    "dora": ({"use_dora": True}, UnsupportedModel, "use_dora is True"),
    "lora bias": ({"lora_bias": True}, UnsupportedModel, "lora_bias is True|lora_B.bias"),
    "pissa": ({"init_lora_weights": "pissa"}, UnsupportedModel, "init_lora_weights is 'pissa'.*changed the base"),
    "tokens": ({"trainable_token_indices": [1, 2]}, UnsupportedModel, "trainable_token_indices"),
    "embedding": ({"target_modules": ["embed_tokens"]}, UnsupportedModel, "lora_embedding_A"),
    "pattern": ({"rank_pattern": {"(q|k)_proj": 4}}, UnsupportedModel, "is a pattern"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_plain_lora_is_refused_by_name(case: str, store: Store, tmp_path: Path) -> None:
    config, kind, words = REFUSED[case]
    model = build("llama", 1)
    save(model, tmp_path / "base")
    store.import_folder(tmp_path / "base", "toy")
    adapted(model, tmp_path / "adapter", **{"r": 4, "target_modules": ["q_proj"], **config})
    with pytest.raises(kind, match=words):
        store.add_version("toy", "x", layer=tmp_path / "adapter")
    with pytest.raises(KelmError, match="there is no model toy@x"):
        store.history("toy@x")


def test_other_peft_types_are_refused(store: Store, tmp_path: Path) -> None:
    model = build("llama", 1)
    save(model, tmp_path / "base")
    store.import_folder(tmp_path / "base", "toy")
    made = peft.get_peft_model(model, peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    made.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UnsupportedModel, match="peft_type is 'IA3'; LORA is served"):
        store.add_version("toy", "x", layer=tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "warp_factor": 9}))
    with pytest.raises(UnsupportedModel, match="warp_factor is 9"):
        store.add_version("toy", "x", layer=tmp_path / "adapter")
