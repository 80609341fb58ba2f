"""A wrong config.json is an error that names the field; what isn't native is UnsupportedModel, never a guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.errors import KelmError, ModelFormatError, UnsupportedModel
from kelm.models.encoder_families import ENCODER_FAMILIES
from kelm.models.families import FAMILIES
from kelm.models.fields import Fields, read_json
from kelm.models.loader import load
from kelm.models.sentence import Sentence, read_sentence

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def load_config(config: object, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    load({"config.json": str(path)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", "100"),
        ("vocab_size", True),
        ("vocab_size", None),
        ("vocab_size", 1e999),
        ("vocab_size", 10**400),
        ("hidden_size", -48),
        ("hidden_size", 48.0),
        ("intermediate_size", 1 << 40),
        ("num_hidden_layers", 100_000),
        ("num_attention_heads", 4.5),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("head_dim", [16]),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", 10**400),
        ("rms_norm_eps", "tiny"),
        ("hidden_act", 3),
        ("tie_word_embeddings", "yes"),
        ("attention_bias", 1),
        ("rope_theta", -1.0),
        ("rope_scaling", []),
        ("rope_scaling.factor", {"rope_type": "linear"}),
        ("rope_scaling.factor", {"rope_type": "linear", "factor": "two"}),
        ("rope_scaling.high_freq_factor", LLAMA3 | {"high_freq_factor": 0.5}),
        ("rope_scaling.original_max_position_embeddings", LLAMA3 | {"original_max_position_embeddings": -3}),
        ("rope_scaling.truncate", {"rope_type": "yarn", "factor": 2.0, "truncate": "no",
                                   "original_max_position_embeddings": 64}),
        ("model_type", 5),
        ("architectures", "LlamaForCausalLM"),
    ],
)  # fmt: skip
def test_the_error_names_the_field(field, value, tmp_path):
    top = field.split(".")[0]
    with pytest.raises(ModelFormatError, match=f"config.json: {field} must be"):
        load_config(LLAMA | {"max_position_embeddings": 64, top: value}, tmp_path)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
@pytest.mark.parametrize("config", [LLAMA, BERT])
def test_a_missing_size(field, config, tmp_path):
    config = {name: value for name, value in config.items() if name != field}
    with pytest.raises(ModelFormatError, match=f"{field} must be an integer between .*, got nothing"):
        load_config(config, tmp_path)


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (LLAMA, {"model_type": "phi3"}),
        (LLAMA, {"architectures": ["LlamaForSequenceClassification"]}),
        (LLAMA, {"hidden_act": "quick_gelu"}),
        (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        (LLAMA, {"rope_scaling": {"type": "longrope", "factor": 2.0}}),
        (LLAMA, {"partial_rotary_factor": 0.5}),
        (LLAMA, {"quantization_config": {"quant_method": "gptq"}}),
        (LLAMA | {"architectures": []}, {"model_type": "gemma2", "use_bidirectional_attention": True}),
        (BERT, {"is_decoder": True}),
        (BERT, {"position_embedding_type": "relative_key"}),
        (BERT, {"architectures": ["BertForMultipleChoice"]}),
    ],
)
def test_what_is_not_native(base, changes, tmp_path):
    with pytest.raises(UnsupportedModel, match=r"config\.json: "):
        load_config(base | changes, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id2label", {"0": "a", "2": "b"}),
        ("id2label", {"0": "a", "one": "b"}),
        ("id2label.1", {"0": "a", "1": 7}),
        ("num_labels", 0),
        ("problem_type", "ranking"),
        ("layer_norm_eps", -1),
        ("type_vocab_size", 0),
    ],
)
def test_encoder_fields(field, value, tmp_path):
    with pytest.raises(ModelFormatError, match=f"config.json: {field} must be"):
        load_config(BERT | {field.split(".")[0]: value}, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": \ud800}', "{" * 3000, "[" * 200_000, "{}"])
def test_rubbish(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        load({"config.json": str(path)})


def test_a_huge_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (5 << 20))
    with pytest.raises(ModelFormatError, match="5242880 bytes, the limit is"):
        read_json(str(path), "config.json")


def test_heads_that_do_not_divide_the_width(tmp_path):
    config = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    with pytest.raises(ModelFormatError, match=r"num_attention_heads must be a divisor of hidden_size \(48\)"):
        load_config(config | {"num_attention_heads": 5}, tmp_path)


def test_no_config():
    with pytest.raises(ModelFormatError, match=r"config\.json is missing"):
        load({})


def test_an_unknown_dtype():
    with pytest.raises(UnsupportedModel, match=r"dtype must be auto, .*, got 'int3'"):
        load({}, "int3")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({*LLAMA, *BERT, "rope_scaling", "rope_parameters", "head_dim", "id2label", "layer_types", "n_head",
                "sliding_window", "use_sliding_window", "query_pre_attn_scalar", "dim", "pad_token_id"})  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from([*FAMILIES, *ENCODER_FAMILIES]),
    changes=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3),
    base=st.sampled_from([LLAMA, BERT, {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9}]),
)
def test_any_config_is_a_spec_or_a_named_error(kind, changes, base):
    config = Fields(base | {"model_type": kind} | changes)
    try:
        if kind in FAMILIES:
            FAMILIES[kind].read(config)
            FAMILIES[kind].context(config)
        else:
            ENCODER_FAMILIES[kind].describe(config, Sentence())
    except KelmError as error:
        assert isinstance(error, (ModelFormatError, UnsupportedModel))


def sentence_files(folder: Path, **files: object) -> dict[str, str]:
    names = {"modules": "modules.json", "pooling": "1_Pooling/config.json", "length": "sentence_bert_config.json"}
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return {names[name]: str(folder / name) for name in files}


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling(pooling, wanted, tmp_path):
    files = sentence_files(tmp_path, pooling=pooling, length={"max_seq_length": 77})
    assert read_sentence(files) == Sentence(wanted, 77)


@pytest.mark.parametrize(
    "files",
    [
        {"pooling": {"pooling_mode_max_tokens": True}},
        {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
        {"pooling": {"pooling_mode_mean_tokens": False}},
        {"modules": [{"type": "sentence_transformers.models.Dense"}]},
    ],
)
def test_sentence_parts_that_are_not_native(files, tmp_path):
    with pytest.raises(UnsupportedModel):
        read_sentence(sentence_files(tmp_path, **files))


@pytest.mark.parametrize("files", [{"modules": {}}, {"modules": [3]}, {"length": {"max_seq_length": "long"}}])
def test_malformed_sentence_files(files, tmp_path):
    with pytest.raises(ModelFormatError):
        read_sentence(sentence_files(tmp_path, **files))
