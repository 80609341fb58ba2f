"""Products with packed weights against the plain reading of their bits; and a row's bits, whatever its company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kelm.compress.rounding import RoundingError, quantize
from kelm.ops import quantized as packing
from kelm.ops import reference as ops
from kelm.ops.quantized import QuantizedWeight
from quantized_kit import quantized, unpacked

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {"out": st.integers(1, 70), "columns": st.integers(1, 200), "seed": st.integers(0, 1 << 30)}
GROUPS = st.sampled_from([1, 5, 32, 64, 128, None])


def random(seed: int, *shape: int, outliers: int = 3) -> torch.Tensor:
    """Normal, with some values a hundred times as large, and a row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(shape, generator=generator)
    at = torch.randint(made.numel(), (outliers,), generator=generator)
    made.view(-1)[at] *= 100
    made[seed % shape[0]] *= seed % 2
    return made


@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None, max_examples=60)
@given(**SHAPES, group=GROUPS, dtype=st.sampled_from(DTYPES), rows=st.integers(1, 2))
@example(out=1, columns=1, seed=1, group=None, dtype=torch.float32, rows=1)
@example(out=17, columns=33, seed=1, group=32, dtype=torch.float32, rows=2)
@example(out=1, columns=52, seed=1, group=5, dtype=torch.float32, rows=1)  # no word to fill, the last group short
def test_products_are_those_of_the_unpacked_weight(bits, out, columns, seed, group, dtype, rows):
    group = group or columns
    weight = random(seed, out, columns).to(dtype)
    packed, scale = quantize("w", weight, bits, group, RoundingError())
    plain = unpacked(packed, scale, bits, columns, group).astype(np.float32)
    held = QuantizedWeight(packed.view(torch.uint8), scale, bits, columns, group, torch.float32)
    assert held.shape == (out, columns)
    np.testing.assert_array_equal(held.rows(0, out).numpy(), plain)
    x, bias = random(seed + 1, 16 * rows, columns, outliers=0), random(seed + 2, 1, out)[0]
    wanted = x.double().numpy() @ plain.T + bias.double().numpy()
    tolerance = 1e-5 * (np.abs(x.double().numpy()) @ np.abs(plain).T + np.abs(bias.numpy()) + 1e-30)
    for op in (ops.linear, ops.logits):
        assert (np.abs(op(x, held, bias).double().numpy() - wanted) <= tolerance).all()


@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None, max_examples=60)
@given(**SHAPES, group=GROUPS, dtype=st.sampled_from(DTYPES))
def test_rounding_is_to_nearest(bits, out, columns, seed, group, dtype):
    """Nothing is off by more than half a step, or by a step where the largest value of a group is past the range; and
    the error that is reported is the error."""
    group = group or columns
    weight = random(seed, out, columns).to(dtype)
    error = RoundingError()
    packed, scale = quantize("w", weight, bits, group, error)
    plain = unpacked(packed, scale, bits, columns, group)
    steps = np.repeat(scale.double().numpy(), group, axis=1)[:, :columns]
    off = np.abs(plain - weight.double().numpy()) / steps
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    inside = (weight.double().numpy() / steps <= most) & (weight.double().numpy() / steps >= least)
    assert (off[inside] <= 0.5 + 1e-4).all()
    assert (off[steps >= torch.finfo(dtype).tiny] <= 1.05).all()  # under it the scale itself is coarse
    total = np.square(weight.double().numpy()).sum()
    assert error.share == pytest.approx(np.sqrt(np.square(off * steps).sum() / total) if total else 0.0, rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None, max_examples=40)
@given(**SHAPES, group=GROUPS, dtype=st.sampled_from(DTYPES), blocks=st.integers(1, 4))
def test_a_row_is_the_same_in_any_company(bits, out, columns, seed, group, dtype, blocks):
    held = quantized(random(seed, out, columns).to(dtype), bits, group or columns, dtype)
    bias = random(seed + 2, 1, out)[0].to(dtype)
    x = random(seed + 1, 16 * blocks, columns)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for op in (ops.linear, ops.logits):
        together = op(x, held, bias)
        assert torch.equal(op(x[order], held, bias), together[order])
        one = torch.zeros(16, columns).index_copy(0, torch.tensor([seed % 16]), x[-1:])
        assert torch.equal(op(one, held, bias)[seed % 16], together[-1])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_large_weight_goes_in_pieces(bits, monkeypatch):
    """Pieces cover every row once, and what is held at once is bounded."""
    held = quantized(random(5, 100, 64), bits, 32)
    bias, x = random(7, 1, 100)[0], random(6, 32, 64)
    whole = held.rows(0, 100)
    monkeypatch.setattr(packing, "_PIECE_BYTES", 40 * 64 * 4)
    pieces = list(held.pieces())
    assert [len(floats) for _, floats in pieces] == [32, 32, 32, 4]
    assert torch.equal(torch.cat([floats for _, floats in pieces]), whole)
    for op in (ops.linear, ops.logits):
        torch.testing.assert_close(op(x, held, bias), x @ whole.T + bias, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("bits", "nbytes"), [(8, 64 * 96 + 64 * 3 * 2), (4, 64 * 48 + 64 * 3 * 2)])
def test_it_is_small(bits, nbytes):
    assert quantized(random(1, 64, 96).bfloat16(), bits, 32, torch.bfloat16).nbytes == nbytes
