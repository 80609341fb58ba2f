"""What Kelm writes is what compressed-tensors (vLLM, transformers) reads, to the bit; and the other way round."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.lifecycle.forward import quantize as their_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from decoder_configs import build
from parity_kit import Arena, files_of, step

from kelm.compress.rounding import RoundingError, quantize
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load
from kelm.ops.quantized import QuantizedWeight, unpack
from quantized_kit import PRECISIONS, source_of, write_quantized

ODD = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32, "num_attention_heads": 3, "num_key_value_heads": 1}
"""Sizes that 32 divides, and 64 does not."""
SCHEMES = {
    "int8 packed": (8, None, "pack-quantized"),
    "int8 plain": (8, None, "int-quantized"),
    "int4 group 32": (4, 32, "pack-quantized"),
    "int4 channel": (4, None, "pack-quantized"),
    "int8 group 32": (8, 32, "pack-quantized"),
}


def model_of(family: str, dtype: torch.dtype = torch.float32, **changes: object) -> transformers.PreTrainedModel:
    plain = build(family, 3).config
    config = type(plain).from_dict(plain.to_dict() | ODD | {"num_hidden_layers": 2, "layer_types": None} | changes)
    torch.manual_seed(7)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def dense(decoder: LoadedDecoder, name: str) -> torch.Tensor:
    held = decoder._weights[name]
    assert isinstance(held, QuantizedWeight), name
    return held.rows(0, held.shape[0])


def linears(model: transformers.PreTrainedModel, layer: int) -> dict[str, torch.Tensor]:
    """Slot name -> weight, as transformers has it after decompression."""
    block = model.model.layers[layer]
    attention, mlp = block.self_attn, block.mlp
    return {
        f"layers.{layer}.qkv.weight": torch.cat(
            [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        ),
        f"layers.{layer}.out.weight": attention.o_proj.weight,
        f"layers.{layer}.up.weight": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        f"layers.{layer}.down.weight": mlp.down_proj.weight,
    }


def assert_same(decoder: LoadedDecoder, model: transformers.PreTrainedModel, head: bool = False) -> None:
    """Every linear to the bit, and the same logits as near as two orders of additions come."""
    ids = list(np.random.default_rng(0).integers(0, 90, 40))
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].float()  # the first pass decompresses it
    for layer in range(2):
        for name, weight in linears(model, layer).items():
            assert torch.equal(dense(decoder, name), weight), name
    if head:
        assert torch.equal(dense(decoder, "head.weight"), model.lm_head.weight)
    elif not decoder.spec.tied:
        assert torch.equal(decoder._weights["head.weight"], model.lm_head.weight), "left as it was"
    if decoder.dtype == torch.float32:
        arena = Arena(decoder.groups, 200)
        decoder.attach(arena.kv)
        got = torch.from_numpy(step(decoder, arena, {0: (ids, 0)}))
        assert (got - wanted).abs().max() <= 1e-4 * wanted.std()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("family", "dtype", "tied", "head"),
    [("llama", torch.float32, False, True), ("llama", torch.float32, False, False),
     ("llama", torch.bfloat16, True, False), ("qwen2", torch.float32, True, False),
     ("gemma2", torch.float32, True, False)],
)  # fmt: skip
def test_transformers_reads_what_kelm_writes(family, dtype, tied, head, precision, tmp_path):
    model_of(family, dtype, tie_word_embeddings=tied).save_pretrained(tmp_path / "plain")
    source = source_of(tmp_path / "plain", tmp_path / "home")
    files = write_quantized(source, tmp_path / "made", PRECISIONS[precision], head=head)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=dtype)
    decoder = load(files)
    assert isinstance(decoder, LoadedDecoder) and decoder.info.dtype == PRECISIONS[precision].label
    assert_same(decoder, theirs, head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_kelm_reads_what_compressed_tensors_writes(scheme, dtype, tmp_path):
    bits, group, form = SCHEMES[scheme]
    model = model_of("llama", dtype, tie_word_embeddings=False)
    _compress(model, bits, group, form, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    decoder = load(files_of(tmp_path))
    assert isinstance(decoder, LoadedDecoder)
    assert decoder.info.dtype == f"int{bits}" + (f" group {group}" if group else "")
    assert_same(decoder, theirs)


def _compress(model: transformers.PreTrainedModel, bits: int, group: int | None, form: str, folder: Path) -> None:
    """As llm-compressor does it for round-to-nearest."""
    weights = QuantizationArgs(num_bits=bits, group_size=group, strategy="group" if group else "channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format=form)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status=QuantizationStatus.INITIALIZED
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None and hasattr(module, "weight_scale"):
            least, most = _extremes(module.weight, group)
            module.weight_scale.data = calculate_qparams(least, most, weights)[0].to(module.weight.dtype)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model, form)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


def _extremes(weight: torch.Tensor, group: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    parts = weight.detach().unflatten(1, (-1, group or weight.shape[1]))
    return parts.amin(2), parts.amax(2)


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32), (4, 64)])
def test_rounding_is_theirs(bits, group):
    weight = torch.randn(48, 192, generator=torch.Generator().manual_seed(1))
    args = QuantizationArgs(num_bits=bits, group_size=group, strategy="group" if group else "channel")
    scale = calculate_qparams(*_extremes(weight, group), args)[0]
    wanted = their_quantize(weight, scale, None, args, dtype=torch.int8)
    packed, made = quantize("w", weight, bits, group or 192, RoundingError())
    assert torch.equal(made, scale)
    values = unpack(packed.view(torch.uint8), bits).to(torch.int16) - (1 << (bits - 1))
    assert torch.equal(values.to(torch.int8), wanted)


def test_config_is_read_by_their_own_model(tmp_path):
    """No key that they don't know, and none that they need is missing."""
    model_of("llama").save_pretrained(tmp_path / "plain")
    source = source_of(tmp_path / "plain", tmp_path / "home")
    files = write_quantized(source, tmp_path / "made", PRECISIONS["int4"])
    written = json.loads(Path(files["config.json"]).read_text())["quantization_config"]
    parsed = QuantizationConfig.model_validate(written)
    assert parsed.format == "pack-quantized" and parsed.ignore == ["lm_head"]
    weights = parsed.config_groups["group_0"].weights
    assert (weights.num_bits, weights.group_size, weights.strategy, weights.symmetric) == (4, 32, "group", True)


def test_a_scale_in_another_precision_is_rounded_last(tmp_path):
    """bfloat16 scales in a float32 run: the product is made in float32."""
    model_of("llama", torch.bfloat16).save_pretrained(tmp_path / "plain")
    source = source_of(tmp_path / "plain", tmp_path / "home")
    files = write_quantized(source, tmp_path / "made", PRECISIONS["int4"])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    decoder = load(files, "float32")
    assert isinstance(decoder, LoadedDecoder)
    assert_same(decoder, theirs)
