"""The reference ops' contract: a row's bits depend on that row only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.ops import reference as ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rows_of(seed: int, count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1 << 30), blocks=st.integers(1, 5), width=st.integers(1, 130), out=st.integers(1, 130))
def test_linear(dtype, seed, blocks, width, out):
    x = rows_of(seed, 16 * blocks, width)
    weight, bias = rows_of(seed + 1, out, width).to(dtype), rows_of(seed + 2, 1, out)[0].to(dtype)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for op in (ops.linear, ops.logits):
        together = op(x, weight, bias)
        assert torch.equal(op(x[order], weight, bias), together[order])
        one = torch.zeros(16, width).index_copy(0, torch.tensor([seed % 16]), x[-1:])
        assert torch.equal(op(one, weight, bias)[seed % 16], together[-1])


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(1, 40), width=st.integers(1, 70), at=st.integers(0, 39))
def test_gates(kind, seed, rows, width, at):
    """torch's own silu, gelu and sigmoid fail this: a vector loop's tail rounds differently."""
    x = rows_of(seed, rows, 2 * width)
    row = x[at % rows][None].clone()
    assert torch.equal(ops.gate(row, kind)[0], ops.gate(x, kind)[at % rows])
    assert torch.equal(ops.activate(row, kind)[0], ops.activate(x, kind)[at % rows])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1 << 30), rows=st.integers(1, 70), width=st.integers(1, 300), at=st.integers(0, 69))
def test_norms_and_cap(seed, rows, width, at):
    x, weight, bias = rows_of(seed, rows, width), rows_of(1, 1, width)[0], rows_of(2, 1, width)[0]
    row = x[at % rows][None].clone()
    for op in (
        lambda v: ops.rms_norm(v, weight, 1e-5),
        lambda v: ops.layer_norm(v, weight, bias, 1e-5),
        lambda v: ops.soft_cap(v, 2.5),
    ):
        assert torch.equal(op(row)[0], op(x)[at % rows])


@pytest.mark.parametrize(
    ("kind", "torch_op"),
    [
        ("silu", torch.nn.functional.silu),
        ("gelu", torch.nn.functional.gelu),
        ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ],
)
def test_gates_are_the_known_functions(kind, torch_op):
    x = torch.linspace(-30, 30, 4001)
    torch.testing.assert_close(ops.activate(x, kind), torch_op(x), rtol=3e-6, atol=2e-6)
