"""The norm that models call: compiled where it can be, and then within rounding of its torch twin."""

from __future__ import annotations

import pytest
import torch

from kelm.ops import native, norms, reference


@pytest.mark.parametrize("shape", [(1, 7), (16, 192), (5, 3, 33), (0, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_its_twin(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape).mul(9).to(dtype), torch.randn(shape[-1])
    got, want = norms.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5)
    assert got.dtype == torch.float32 and got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_the_compiled_op_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = native.rms_norm
    monkeypatch.setattr(native, "rms_norm", lambda *args: calls.append(1) or real(*args))
    norms.rms_norm(torch.randn(3, 5), torch.ones(5), 1e-5)
    assert bool(calls) == native.available()
    monkeypatch.setattr(native, "available", lambda: False)
    calls.clear()
    norms.rms_norm(torch.randn(3, 5), torch.ones(5), 1e-5)
    assert not calls
