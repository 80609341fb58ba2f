"""How a checkpoint's linears are quantized: ``quantization_config`` of config.json, and the tensors it stands for.

Read is ``compressed-tensors`` as vLLM and transformers read it, weights alone, symmetric, 4 or 8 bits, one scale for
each output (strategy "channel") or for each group of inputs ("group"). In place of ``X.weight`` there is

    pack-quantized    X.weight_packed  I32 [out, ceil(in * bits / 32)]  unsigned, the first input in the lowest bits
                      X.weight_shape   I64 [2] = [out, in]
    int-quantized     X.weight         I8 [out, in]
    both              X.weight_scale   F32, F16 or BF16 [out, 1 or in / group]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.limits import QUANT_GROUP
from kelm.models.fields import Fields
from kelm.store.precision import label

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kelm.ops.quantized import QuantizedWeight

FIELD = "quantization_config"
METHOD = "compressed-tensors"
PACKED, PLAIN = "pack-quantized", "int-quantized"
FLOATS = frozenset({"F32", "F16", "BF16"})
Stored = tuple[tuple[int, ...], frozenset[str]]
"""Of a tensor in a file: its shape, and the types it may have."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """``group``: inputs that share a scale; None: all of an output's do. ``packed``: in words, else a byte a value."""

    bits: int
    group: int | None
    packed: bool = True

    @property
    def label(self) -> str:
        """How people call it: int8, int4 group 32."""
        return label(self.bits, self.group)

    def stored(self, module: str, rows: int, columns: int) -> dict[str, Stored]:
        """The tensors of one linear."""
        groups = -(-columns // self.group) if self.group else 1
        found: dict[str, Stored] = {f"{module}.weight_scale": ((rows, groups), FLOATS)}
        if self.packed:
            found[f"{module}.weight_packed"] = ((rows, -(-columns * self.bits // 32)), frozenset({"I32"}))
            found[f"{module}.weight_shape"] = ((2,), frozenset({"I64"}))
        else:
            found[f"{module}.weight"] = ((rows, columns), frozenset({"I8"}))
        return found

    def read(
        self, modules: dict[str, int], columns: int, dtype: torch.dtype, tensor: Callable[[str], Tensor]
    ) -> QuantizedWeight:
        """The weight of ``modules`` (name -> rows), one after the other, in memory of its own."""
        import torch

        from kelm.ops.quantized import QuantizedWeight

        packed = torch.cat([self._bytes(module, (rows, columns), tensor) for module, rows in modules.items()])
        scale = torch.cat([tensor(f"{module}.weight_scale") for module in modules])
        return QuantizedWeight(packed, scale, self.bits, columns, self.group or columns, dtype)

    def _bytes(self, module: str, shape: tuple[int, int], tensor: Callable[[str], Tensor]) -> Tensor:
        import torch

        if not self.packed:
            return tensor(f"{module}.weight").view(torch.uint8) ^ 128  # -128 ... 127 -> 0 ... 255
        written = tuple(tensor(f"{module}.weight_shape").tolist())
        if written != shape:
            raise ModelFormatError(f"{module}.weight_shape holds {list(written)}, config.json asks for {list(shape)}")
        return tensor(f"{module}.weight_packed").view(torch.uint8)


def read_quantization(config: Fields) -> Quantization | None:
    """What config.json says; None for float weights. Raises UnsupportedModel for what no op can run."""
    if FIELD not in config:
        return None
    fields = config.table(FIELD)
    method = fields.text("quant_method", "")
    if method != METHOD:
        raise UnsupportedModel(
            f"config.json: {FIELD}.quant_method is {method!r}; native families read float weights and {METHOD}"
        )
    _refuse_more(fields)
    groups = list(fields.table("config_groups"))
    if len(groups) != 1:
        raise _unsupported(f"config_groups has {len(groups)} groups", "one")
    group = fields.table("config_groups").table(groups[0])
    _refuse_activations(group)
    form = group.text("format", fields.text("format", ""))
    if form not in (PACKED, PLAIN, "naive-quantized"):
        raise _unsupported(f"format is {form!r}", f"{PACKED} and {PLAIN}")
    return _weights(group.table("weights"), packed=form == PACKED)


def _weights(weights: Fields, packed: bool) -> Quantization:
    bits, kind, strategy = weights.raw("num_bits"), weights.text("type", "int"), weights.text("strategy", "")
    if kind != "int" or bits not in ((4, 8) if packed else (8,)):
        raise _unsupported(f"weights are {kind} of {bits} bits", "integers of 4 or 8 bits, 4 only packed")
    if not weights.flag("symmetric", True) or weights.raw("dynamic") or weights.raw("actorder") in ("group", "dynamic"):
        raise _unsupported("weights have zero points, or an order of their own", "symmetric weights in order")
    if strategy not in ("channel", "group"):
        raise _unsupported(f"the weights' strategy is {strategy!r}", "channel and group")
    assert isinstance(bits, int)
    return Quantization(bits, weights.integer("group_size", QUANT_GROUP) if strategy == "group" else None, packed)


def _refuse_more(fields: Fields) -> None:
    """What goes beyond weights of linears."""
    if "kv_cache_scheme" in fields or fields.table("transform_config"):
        raise _unsupported("kv_cache_scheme or transform_config is set", "quantized weights alone")
    if fields.table("sparsity_config").text("format", "dense") != "dense":
        raise _unsupported("sparsity_config is set", "dense weights")
    status = fields.text("quantization_status", "compressed")
    if status != "compressed":
        raise _unsupported(f"quantization_status is {status!r}", "compressed checkpoints")


def _refuse_activations(group: Fields) -> None:
    if "input_activations" in group or "output_activations" in group:
        raise _unsupported("activations are quantized too", "quantized weights alone")


def _unsupported(got: str, wanted: str) -> UnsupportedModel:
    return UnsupportedModel(f"config.json: {FIELD}: {got}; native families read {wanted}")
