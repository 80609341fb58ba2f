"""RMS norm as the models call it: the compiled op where the install has it, its torch twin elsewhere.

Which of the two runs is part of the numerics id (worker/numerics.py): they may differ in the last bit.
"""

from __future__ import annotations

from torch import Tensor

from kelm.ops import native, reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension: x [..., hidden] any float, weight [hidden] float32 -> float32."""
    if not native.available():
        return reference.rms_norm(x, weight, eps)
    rows = x.float().contiguous().view(-1, x.shape[-1])
    normed: Tensor = native.rms_norm(rows, weight, eps)
    return normed.view(x.shape)
