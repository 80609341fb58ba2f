"""In which precision a checkpoint keeps its weights, from config.json and safetensors headers as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kelm.store.safetensors import TensorInfo

_BESIDE = (".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx")
"""Ends of tensors that say how packed ones are read; they are no parameters."""


def label(bits: int, group: int | None) -> str:
    """How people call it: int8, int4 group 32."""
    return f"int{bits}" + (f" group {group}" if group else "")


def precision(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str:
    """int4 group 32, or the types of the tensors: BF16, F32; of a foreign quantization its method's name."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return ", ".join(sorted({info.dtype for info in tensors.values()}))
    weights = _weights(quantization)
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if not isinstance(bits, int):
        return str(quantization.get("quant_method"))
    return label(bits, group if isinstance(group, int) else None)


def parameters(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> int:
    """How many numbers the model has; packed ones are counted as such (a row's last word as if it were full)."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return sum(_elements(info.shape) for info in tensors.values())
    bits = _weights(quantization).get("num_bits")
    in_a_word = 32 // bits if isinstance(bits, int) and 1 <= bits <= 32 else 1
    return sum(
        _elements(info.shape) * (in_a_word if name.endswith(".weight_packed") else 1)
        for name, info in tensors.items()
        if not name.endswith(_BESIDE)
    )


def _weights(quantization: Mapping[str, Any]) -> Mapping[str, Any]:
    """What compressed-tensors says of the first group's weights."""
    groups = quantization.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) else {}


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
