"""Row-wise ops: linear, norms, embedding, gates, soft cap. Rows come in blocks of ROW_BLOCK.

Three measured facts of torch's CPU kernels shape this file (tests/property/test_row_invariance.py holds both):

- A linear of 1 row takes another path (gemv) than one of many rows, and rounds differently. So every product is
  made on exactly ROW_BLOCK rows, and callers pad (``padded_rows``).
- A product with less than 12 columns takes a path in which a row's bits depend on its place. So narrow ones are
  padded to NARROW columns.
- ``silu``, ``gelu`` and ``sigmoid`` of torch round elements in a vector loop's tail differently, so a value's bits
  depend on its place in the tensor. ``exp``, ``tanh`` and ``erf`` do not. Gates are built from those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from kelm.ops.activation import Activation
from kelm.ops.quantized import QuantizedWeight, Weight

ROW_BLOCK = 16
NARROW = 16
_LOGIT_CHUNK = 8192


def padded_rows(rows: int) -> int:
    """The least multiple of ROW_BLOCK that holds ``rows`` (at least one block)."""
    return max(1, -(-rows // ROW_BLOCK)) * ROW_BLOCK


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` in the weight's dtype: x [T, in], weight [out, in] -> [T, out].

    T is a multiple of ROW_BLOCK.
    """
    if isinstance(weight, QuantizedWeight):
        made = [linear(x, floats, None if bias is None else bias[rows]) for rows, floats in weight.pieces()]
        return torch.cat(made, dim=1)
    x, columns = x.to(weight.dtype), weight.shape[0]
    if columns < NARROW:
        missing = NARROW - columns
        wide_bias = None if bias is None else functional.pad(bias, (0, missing))
        return linear(x, functional.pad(weight, (0, 0, 0, missing)), wide_bias)[:, :columns]
    if x.shape[0] == ROW_BLOCK:
        return functional.linear(x, weight, bias)
    return torch.cat([functional.linear(block, weight, bias) for block in torch.split(x, ROW_BLOCK)])


def logits(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """As ``linear``, with a float32 result whatever the weight's dtype: a bf16 logit would tie with its neighbours."""
    x = x.to(weight.dtype).float()
    if weight.dtype == torch.float32:
        return linear(x, weight, bias)
    out = torch.cat([linear(x, rows.float()) for rows in _parts(weight)], dim=1)
    return out if bias is None else out + bias.float()


def add_low_rank(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``y + (x @ a.T) @ b.T`` in float32, rounded to y's dtype: y [T, out], x [T, in], a [rank, in], b [out, rank].

    T is a multiple of ROW_BLOCK and rank of NARROW: a narrower product would round a row by its place.
    """
    assert a.shape[0] % NARROW == 0, f"rank {a.shape[0]} is not padded"
    return (y.float() + linear(linear(x.float(), a), b)).to(y.dtype)


def _parts(weight: Weight) -> Iterator[Tensor]:
    """Its rows in parts that are small enough to be held in float32 too."""
    if isinstance(weight, QuantizedWeight):
        yield from (rows for _, rows in weight.pieces())
    else:
        yield from torch.split(weight, _LOGIT_CHUNK)


def embedding(ids: Tensor, table: Tensor, scale: float = 1.0) -> Tensor:
    """Rows ``ids`` of ``table`` in float32, times ``scale`` rounded to the table's dtype (as Gemma was trained)."""
    rows = table[ids].float()
    return rows if scale == 1.0 else rows * torch.tensor(scale, dtype=table.dtype).float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, in float32 (Zhang and Sennrich 2019, equation 4)."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the last dimension, in float32."""
    return functional.layer_norm(x.float(), weight.shape, weight, bias, eps)


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap): keeps x inside (-cap, cap). None: x itself."""
    return x if cap is None else torch.tanh(x / cap) * cap


def silu(x: Tensor) -> Tensor:
    return x / (1.0 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Tensor) -> Tensor:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1.0 + torch.tanh(inner))


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": torch.relu,
    "tanh": torch.tanh,
}


def activate(x: Tensor, kind: Activation) -> Tensor:
    """The activation in float32, result float32."""
    return _ACTIVATIONS[kind](x.float())


def gate(gate_up: Tensor, kind: Activation) -> Tensor:
    """act(gate) * up for gate_up [T, 2 * inner] = gate | up, in float32 -> [T, inner]."""
    left, right = gate_up.float().chunk(2, dim=-1)
    return _ACTIVATIONS[kind](left) * right
