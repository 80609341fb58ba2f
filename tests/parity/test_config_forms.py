"""A config.json means to us what it means to transformers: old and new forms, and what a missing field stands for."""

from __future__ import annotations

import random

import pytest
import transformers
from decoder_configs import CONFIGS

from kelm.models.families import FAMILIES
from kelm.models.fields import Fields
from kelm.models.loader import load
from kelm.models.spec import DecoderSpec
from kelm.ops.rotation import LinearScaling, Llama3Scaling, Rope, YarnScaling

SIZES = {
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2_SIZES = {"vocab_size": 100, "n_embd": 48, "n_layer": 3, "n_head": 4}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def read(family: str, config: dict[str, object]) -> DecoderSpec:
    return FAMILIES[family].read(Fields(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_fields_mean_what_transformers_says(family):
    """Sizes alone give the same spec as everything that transformers writes for them."""
    sizes = GPT2_SIZES if family == "gpt2" else SIZES
    full = transformers.AutoConfig.for_model(family, **sizes).to_dict()
    assert read(family, sizes) == read(family, full)
    assert FAMILIES[family].context(Fields(sizes)) == FAMILIES[family].context(Fields(full))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize(
    ("kind", "settings", "wanted"),
    [
        ("linear", {"factor": 2.5}, LinearScaling(2.5)),
        ("llama3", LLAMA3, Llama3Scaling(8.0, 1.0, 4.0, 64)),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.5},
         YarnScaling(4.0, 32, 1.5)),
    ],
)  # fmt: skip
def test_old_rope_form(family, key, kind, settings, wanted):
    spec = read(family, SIZES | {"rope_theta": 7000.0, "rope_scaling": {key: kind, **settings}})
    assert {layer.rope for layer in spec.layers} == {Rope(7000.0, wanted)}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_both_rope_forms_are_one_spec(family, seed):
    """The old form (rope_theta, rope_scaling, rope_local_base_freq) of a random config gives the spec of the new."""
    new = CONFIGS[family](random.Random(f"{family}{seed}")).to_dict()
    old = dict(new)
    parameters = old.pop("rope_parameters", None)
    if family == "gpt2":
        assert parameters is None
        return
    if family == "gemma3_text":
        old["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        parameters = parameters["full_attention"]
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    old |= {"rope_theta": parameters["rope_theta"], "rope_scaling": scaling}
    assert read(family, old) == read(family, new)


@pytest.mark.parametrize(("window", "wanted"), [(None, None), (9, 9), (..., 4096)])
def test_mistral_window(window, wanted):
    """null is full attention, a missing field is the reference's default."""
    config = SIZES if window is ... else SIZES | {"sliding_window": window}
    assert {layer.window for layer in read("mistral", config).layers} == {wanted}


def test_yarn_stretches_the_context():
    stretched = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = Fields(SIZES | {"max_position_embeddings": 32768, "rope_scaling": stretched})
    assert FAMILIES["qwen2"].context(config) == 131072


def test_gemma3_pattern():
    windows = [layer.window for layer in read("gemma3_text", SIZES | {"sliding_window_pattern": 3}).layers]
    assert windows == [4096, 4096, None, 4096, 4096, None, 4096, 4096]


def test_groups_split_by_window():
    groups = read("gemma2", SIZES | {"sliding_window": 7}).kv_groups()
    assert [(group.layers, group.window) for group in groups] == [((0, 2, 4, 6), 7), ((1, 3, 5, 7), None)]
    assert {(group.kv_heads, group.head_dim) for group in groups} == {(2, 256)}


def test_ids_and_context(tmp_path):
    from decoder_configs import build
    from parity_kit import edit_config, save

    files = save(build("llama", 0), tmp_path)
    info = load(files).info
    assert (info.eos_ids, info.max_context_tokens, info.kind, info.tasks) == ((2,), 512, "decoder", ("generate",))
    del files["generation_config.json"]
    edit_config(files, eos_token_id=[5, 7])
    assert load(files).info.eos_ids == (5, 7)
