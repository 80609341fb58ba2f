"""Quantized checkpoints: what is read, what is refused and why, and that they stay small in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load
from kelm.ops.quantized import QuantizedWeight
from kelm.testing.checkpoints import Shape, write_llama
from kelm.wire.messages import Load
from kelm.worker.executors import open_checkpoint
from quantized_kit import PRECISIONS, source_of, write_quantized

SHAPE = Shape(hidden_size=64, intermediate_size=96)
Q = "model.layers.1.self_attn.q_proj"
FIELD = "quantization_config"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"), 1, SHAPE)


@pytest.fixture
def files(plain: Path, tmp_path: Path) -> dict[str, str]:
    return write_quantized(source_of(plain, tmp_path / "home"), tmp_path / "made", PRECISIONS["int4"])


def edit(files: dict[str, str], **changes: Any) -> dict[str, str]:
    """With fields of quantization_config, or of its weights, changed."""
    path = Path(files["config.json"])
    config = json.loads(path.read_text())
    group = config[FIELD]["config_groups"]["group_0"]
    for name, value in changes.items():
        place = next((at for at in (group["weights"], group) if name in at), config[FIELD])
        place[name] = value
    path.write_text(json.dumps(config))
    return files


def edit_tensors(files: dict[str, str], drop: str = "", **changes: torch.Tensor) -> dict[str, str]:
    path = files["model.safetensors"]
    tensors = load_file(path) | {name.replace("__", "."): value for name, value in changes.items()}
    tensors.pop(drop, None)
    save_file(tensors, path)
    return files


def test_it_is_held_packed(plain, files, tmp_path):
    """Parts of a slot follow one another, each with its own bytes and scales; biases, norms and embedding stay."""
    decoder = load(files)
    assert isinstance(decoder, LoadedDecoder)
    stored, held = load_file(files["model.safetensors"]), decoder._weights["layers.1.qkv.weight"]
    assert isinstance(held, QuantizedWeight) and held.shape == (128, 64)
    names = [f"model.layers.1.self_attn.{n}_proj" for n in "qkv"]
    assert torch.equal(held.packed, torch.cat([stored[f"{n}.weight_packed"] for n in names]).view(torch.uint8))
    assert torch.equal(held.scale, torch.cat([stored[f"{n}.weight_scale"] for n in names]))
    float_bytes = load({p.name: str(p) for p in plain.iterdir()}).info.weight_bytes
    embedding = decoder._weights["embed.weight"]
    assert isinstance(embedding, torch.Tensor) and embedding.dtype == torch.float32
    info = decoder.info
    linears = (info.parameters - embedding.numel() - 5 * 64) / 2
    assert info.weight_bytes == sum(w.nbytes for w in decoder._weights.values())
    assert info.weight_bytes == embedding.nbytes + 5 * 64 * 4 + linears * 2 * (0.5 + 4 / 32)
    assert info.weight_bytes < 0.5 * float_bytes
    assert (info.dtype, decoder.dtype) == ("int4 group 32", torch.float32)


def test_memory_of_its_own(files):
    decoder = load(files)
    assert isinstance(decoder, LoadedDecoder)
    held = decoder._weights["layers.0.out.weight"]
    assert isinstance(held, QuantizedWeight)
    before = held.rows(0, 64)
    path = Path(files["model.safetensors"])
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(bytes(path.stat().st_size // 2))
    assert torch.equal(held.rows(0, 64), before)


def test_progress_ends_at_its_total(files):
    seen: list[tuple[int, int]] = []
    decoder = load(files, "auto", lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    shapes = 14 * 2 * 8  # weight_shape, which is read and not kept
    assert seen[-1][1] == decoder.info.weight_bytes + shapes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quant_method": "gptq"}, "quant_method is 'gptq'; native families read float weights and compressed-tensors"),
        ({"quant_method": None}, "quant_method is ''"),
        ({"format": "marlin-24"}, "format is 'marlin-24'"),
        ({"num_bits": 3}, "weights are int of 3 bits"),
        ({"num_bits": "4"}, "weights are int of 4 bits"),
        ({"type": "float"}, "weights are float of 4 bits"),
        ({"symmetric": False}, "zero points"),
        ({"dynamic": True}, "an order of their own"),
        ({"strategy": "tensor"}, "strategy is 'tensor'"),
        ({"input_activations": {"num_bits": 8}}, "activations are quantized too"),
        ({"output_activations": {"num_bits": 8}}, "activations are quantized too"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"transform_config": {"config_groups": {}}}, "transform_config"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"quantization_status": "frozen"}, "quantization_status is 'frozen'"),
        ({"config_groups": {}}, "config_groups has 0 groups"),
    ],
)
def test_what_no_op_can_run(changes, words, files):
    with pytest.raises(UnsupportedModel, match=words):
        load(edit(files, **changes))


@pytest.mark.parametrize("group_size", [0, -1, None, "32", 1 << 21])
def test_a_group_that_is_none(group_size, files):
    with pytest.raises(ModelFormatError, match=r"config_groups\.group_0\.weights\.group_size must be an integer"):
        load(edit(files, group_size=group_size))


def test_another_group_than_the_scales_have(files):
    with pytest.raises(ModelFormatError, match=r"weight_scale has shape \[64, 2\], config.json asks for \[64, 1\]"):
        load(edit(files, group_size=64))


def test_a_shape_that_lies(files):
    edit_tensors(files, **{f"{Q}__weight_shape": torch.tensor([64, 63])})
    with pytest.raises(ModelFormatError, match=rf"{Q}.weight_shape holds \[64, 63\], config.json asks for \[64, 64\]"):
        load(files)


@pytest.mark.parametrize("part", ["weight_packed", "weight_shape"])
def test_a_missing_part(part, files):
    with pytest.raises(ModelFormatError, match=f"1 tensors are missing, first {Q}.{part}"):
        load(edit_tensors(files, drop=f"{Q}.{part}"))


def test_packed_in_another_type(files):
    packed = load_file(files["model.safetensors"])[f"{Q}.weight_packed"].to(torch.int64)
    with pytest.raises(UnsupportedModel, match="weight_packed is I64; native families read I32"):
        load(edit_tensors(files, **{f"{Q}__weight_packed": packed}))


def test_a_part_that_stayed_float(files):
    tensors = load_file(files["model.safetensors"])
    kept = {name: t for name, t in tensors.items() if not name.startswith(f"{Q}.")}
    save_file(kept | {f"{Q}.weight": torch.zeros(64, 64)}, files["model.safetensors"])
    with pytest.raises(UnsupportedModel, match=f"{Q}.weight is not quantized, what it is multiplied with"):
        load(files)


def test_gpt2s_linears_lie_the_other_way(files, tmp_path):
    sizes = {"vocab_size": 20, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16}
    quantized = json.loads(Path(files["config.json"]).read_text())[FIELD]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", FIELD: quantized, **sizes}))
    weights = tmp_path / "model.safetensors"
    save_file({"wte.weight": torch.zeros(20, 32), "h.0.attn.c_attn.weight_scale": torch.ones(32, 3)}, weights)
    with pytest.raises(UnsupportedModel, match=r"c_attn.weight is quantized; .* as \[out, in\] only"):
        load({"config.json": str(config), "model.safetensors": str(weights)})


def test_a_linear_that_stayed_float_is_one(files):
    """Recipes leave some out (ignore): a slot whose parts are all floats is read as such."""
    name = "model.layers.0.mlp.down_proj"
    tensors = {n: t for n, t in load_file(files["model.safetensors"]).items() if not n.startswith(f"{name}.")}
    save_file(tensors | {f"{name}.weight": torch.ones(64, 96)}, files["model.safetensors"])
    decoder = load(files)
    assert isinstance(decoder, LoadedDecoder)
    assert torch.equal(decoder._weights["layers.0.down.weight"], torch.ones(64, 96))
    assert isinstance(decoder._weights["layers.1.down.weight"], QuantizedWeight)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_a_foreign_quantization_is_not_handed_to_the_fallback(method, files):
    """transformers would ask for packages, or run what nobody here has tested."""
    edit(files, quant_method=method)
    with pytest.raises(UnsupportedModel, match=f"quant_method is '{method}'"):
        open_checkpoint(Load(model="m", files=files), lambda done, total: None)


def test_an_encoder_is_read_as_floats_only(tmp_path):
    weights = {"num_bits": 8, "type": "int", "strategy": "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    quantized = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "bert", FIELD: quantized}))
    with pytest.raises(UnsupportedModel, match="native encoders read float weights"):
        open_checkpoint(Load(model="m", files={"config.json": str(path)}), lambda done, total: None)
