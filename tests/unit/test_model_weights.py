"""Weights: what is missing, extra, misshapen or malformed is an error that says where; shards and dtypes are equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.decoder import LoadedDecoder
from kelm.models.families import FAMILIES
from kelm.models.fields import Fields
from kelm.models.layout import slots
from kelm.models.loader import load

LLAMA = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 20, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
Q = "model.layers.1.self_attn.q_proj.weight"


def tensors_of(config: dict[str, object], prefix: str) -> dict[str, torch.Tensor]:
    family = FAMILIES[str(config["model_type"])]
    generator = torch.Generator().manual_seed(0)
    wanted = slots(family.read(Fields(config)), family.layout, prefix).values()
    pairs = [(n, s[::-1] if slot.transposed and len(s) == 2 else s) for slot in wanted
             for n, s in zip(slot.names, slot.shapes, strict=True)]  # fmt: skip
    return {name: torch.randn(shape, generator=generator) for name, shape in pairs}


def write(folder: Path, config: dict[str, object], **files: dict[str, torch.Tensor]) -> dict[str, str]:
    """``files``: name with _ for - and without its end -> tensors."""
    paths = {"config.json": folder / "config.json"}
    paths["config.json"].write_text(json.dumps(config))
    for stem, tensors in files.items():
        path = folder / f"{stem.replace('_', '-')}.safetensors"
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
        paths[path.name] = path
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture
def llama() -> dict[str, torch.Tensor]:
    return tensors_of(LLAMA, "model.")


def equal(one: LoadedDecoder, other: LoadedDecoder) -> bool:
    return one._weights.keys() == other._weights.keys() and all(
        torch.equal(w, other._weights[name]) for name, w in one._weights.items()
    )


def test_a_wrong_shape(llama, tmp_path):
    llama[Q] = llama[Q][:-1]
    with pytest.raises(
        ModelFormatError,
        match=rf"model.safetensors: tensor {Q} has shape \[7, 8\], config.json asks for \[8, 8\]",
    ):
        load(write(tmp_path, LLAMA, model=llama))


def test_a_missing_tensor(llama, tmp_path):
    del llama[Q]
    with pytest.raises(ModelFormatError, match=f"model.safetensors: 1 tensors are missing, first {Q}"):
        load(write(tmp_path, LLAMA, model=llama))


def test_an_extra_tensor(llama, tmp_path):
    llama["model.layers.2.mlp.up_proj.weight"] = torch.zeros(12, 8)
    with pytest.raises(ModelFormatError, match=r"1 tensors are not the config's, first model.layers.2.mlp"):
        load(write(tmp_path, LLAMA, model=llama))


def test_an_unknown_bias_is_not_ignored(llama, tmp_path):
    llama["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(8)
    with pytest.raises(ModelFormatError, match=r"q_proj\.bias"):
        load(write(tmp_path, LLAMA, model=llama))


def test_what_may_be_there_besides(llama, tmp_path):
    files = write(tmp_path, LLAMA, model=llama)
    plain = load(files)
    llama["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    assert equal(plain, load(write(tmp_path, LLAMA, model=llama)))


def test_a_tied_model_takes_the_embedding_not_the_head_in_the_file(llama, tmp_path):
    tied = load(write(tmp_path, LLAMA | {"tie_word_embeddings": True}, model=llama))
    assert "head.weight" not in tied._weights


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt2_with_and_without_a_prefix(prefix, tmp_path):
    made = tensors_of(GPT2, prefix)
    made[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    made[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
    decoder = load(write(tmp_path, GPT2, model=made))
    fused = made[f"{prefix}h.0.attn.c_attn.weight"]
    assert fused.shape == (8, 24)
    assert torch.equal(decoder._weights["layers.0.qkv.weight"], fused.T)
    with pytest.raises(ModelFormatError, match=r"attn\.c_attn\.bias"):
        load(write(tmp_path, GPT2, model={n: t for n, t in made.items() if not n.endswith("0.attn.c_attn.bias")}))


def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    names = sorted(tensors)
    halves = names[::2], names[1::2]
    shards = {f"model-0000{i}-of-00002": {n: tensors[n] for n in half} for i, half in enumerate(halves, 1)}
    files = write(folder, LLAMA, **shards)
    where = {name: f"{stem}.safetensors" for stem, shard in shards.items() for name in shard}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return files | {index.name: str(index)}


def test_shards_are_the_same_model(llama, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = load(write(tmp_path / "whole", LLAMA, model=llama))
    files = sharded(tmp_path, llama)
    assert equal(load(files), whole)
    without_index = {name: path for name, path in files.items() if "index" not in name}
    assert equal(load(without_index), whole)


def test_a_missing_shard(llama, tmp_path):
    files = sharded(tmp_path, llama)
    del files["model-00002-of-00002.safetensors"]
    with pytest.raises(
        ModelFormatError, match=r"index.json names model-00002-of-00002.safetensors, which is not there"
    ):
        load(files)


def test_a_tensor_in_two_shards(llama, tmp_path):
    both = {"a": llama, "b": {Q: llama[Q]}}
    with pytest.raises(ModelFormatError, match=rf"b.safetensors: tensor {Q} is also in a.safetensors"):
        load(write(tmp_path, LLAMA, **both))


def test_no_weights(tmp_path):
    with pytest.raises(ModelFormatError, match="no weights"):
        load(write(tmp_path, LLAMA))


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_file_that_was_cut(cut, llama, tmp_path):
    files = write(tmp_path, LLAMA, model=llama)
    path = Path(files["model.safetensors"])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelFormatError, match=r"model\.safetensors: "):
        load(files)


def test_integers_are_not_weights(llama, tmp_path):
    llama[Q] = llama[Q].to(torch.int8)
    with pytest.raises(UnsupportedModel, match=f"tensor {Q} is I8"):
        load(write(tmp_path, LLAMA, model=llama))


@pytest.mark.parametrize(
    ("stored", "asked", "held"),
    [
        (torch.float32, "auto", "float32"),
        (torch.bfloat16, "auto", "bfloat16"),
        (torch.float16, "auto", "bfloat16"),
        (torch.bfloat16, "float32", "float32"),
        (torch.float32, "float16", "float16"),
    ],
)
def test_precision(stored, asked, held, llama, tmp_path):
    """auto is the checkpoint's own, float16 as bfloat16; norms stay in float32."""
    decoder = load(write(tmp_path, LLAMA, model={name: t.to(stored) for name, t in llama.items()}), asked)
    assert decoder.info.dtype == held
    assert str(decoder._weights["layers.0.qkv.weight"].dtype) == f"torch.{held}"
    assert decoder._weights["final_norm.weight"].dtype == torch.float32
    assert decoder.info.parameters == sum(t.numel() for t in llama.values())
    assert decoder.info.weight_bytes == sum(w.numel() * w.element_size() for w in decoder._weights.values())


def test_progress_ends_at_its_total(llama, tmp_path):
    seen: list[tuple[int, int]] = []
    load(write(tmp_path, LLAMA, model=llama), "auto", lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == 4 * sum(t.numel() for t in llama.values())


def test_weights_outlive_their_file(llama, tmp_path):
    """Nothing stays mapped: a file cut short under a running model must not take the process down."""
    files = write(tmp_path, LLAMA, model=llama)
    decoder = load(files)
    Path(files["model.safetensors"]).write_bytes(b"")
    assert torch.equal(decoder._weights["embed.weight"], llama["model.embed_tokens.weight"])
