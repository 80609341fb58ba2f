"""A linear of a model with its delta slot: what a variant adds to the base's product, row by row.

    y = W x + b             the base's tensors, shared by all of its variants
      + B (A x)             float32, where the variant has a low-rank layer here

The parts of a slot (q, k and v; gate and up) lie in one pair: A's under one another, B block-diagonal. Both are padded
to NARROW ranks, so that a row's bits don't depend on its company (ops.reference); padding adds exact zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kelm.ops import reference as ops
from kelm.ops.quantized import Weight

Layer = Mapping[str, Weight]
LOW_RANK_A, LOW_RANK_B = "low_rank_a", "low_rank_b"


def linear(w: Layer, name: str, x: Tensor) -> Tensor:
    """The linear ``name`` of ``w``: x [T, in] -> [T, out] in the weight's dtype. T is a multiple of ROW_BLOCK."""
    made = ops.linear(x, w[f"{name}.weight"], _bias(w, name))
    return add_low_rank(w, name, x, made)


def logits(w: Layer, name: str, x: Tensor, *, tied: str = "") -> Tensor:
    """As ``linear``, in float32. ``tied``: the table that stands in for a weight of its own."""
    made = ops.logits(x, w[tied or f"{name}.weight"], _bias(w, name))
    return add_low_rank(w, name, x, made)


def add_low_rank(w: Layer, name: str, x: Tensor, made: Tensor) -> Tensor:
    """``made``, what the linear made of ``x``, with the variant's part; ``made`` itself where it has none."""
    a = f"{name}.{LOW_RANK_A}"
    return ops.add_low_rank(made, x, plain(w, a), plain(w, f"{name}.{LOW_RANK_B}")) if a in w else made


def plain(w: Layer, name: str) -> Tensor:
    """A weight that is never quantized."""
    weight = w[name]
    assert isinstance(weight, Tensor), name
    return weight


def _bias(w: Layer, name: str) -> Tensor | None:
    return plain(w, f"{name}.bias") if f"{name}.bias" in w else None


@dataclass(frozen=True, slots=True)
class Part:
    """scale * b @ a for the rows from ``row`` on of a slot: a [rank, in], b [out of the part, rank]."""

    row: int
    a: Tensor
    b: Tensor
    scale: float


def low_rank_shapes(parts: Sequence[tuple[int, int]], rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of A and B for parts of (rank, in) in a slot of ``rows`` outputs."""
    rank = -(-sum(rank for rank, _ in parts) // ops.NARROW) * ops.NARROW
    return (rank, parts[0][1]), (rows, rank)


def low_rank(parts: Sequence[Part], rows: int) -> tuple[Tensor, Tensor]:
    """The pair for a slot of ``rows`` outputs. Parts may overlap: their differences add up."""
    shapes = low_rank_shapes([(part.a.shape[0], part.a.shape[1]) for part in parts], rows)
    a, b = (torch.zeros(shape) for shape in shapes)
    at = 0
    for part in parts:
        rank = part.a.shape[0]
        a[at : at + rank] = part.a.float()
        b[part.row : part.row + part.b.shape[0], at : at + rank] = part.b.float() * part.scale
        at += rank
    return a, b
