"""What stands on an encoder's last states: pooling to a vector, classifiers, a masked language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelm.models.encoder_spec import EncoderSpec, Output
from kelm.models.linear import linear, logits
from kelm.ops import reference as ops
from kelm.wire.messages import Encode

Arrays = list[NDArray[np.float32]]


class Heads:
    """The heads of one model; ``weights`` as LoadedEncoder's."""

    def __init__(self, spec: EncoderSpec, weights: Mapping[str, Tensor], mask_id: int | None) -> None:
        self._spec, self._weights, self._mask_id = spec, weights, mask_id

    def run(
        self, request: Encode, ids: NDArray[np.int64], x: Tensor, start: Sequence[int], length: Sequence[int]
    ) -> Arrays:
        """Results for texts whose states are rows start[i] to start[i] + length[i] of ``x`` [rows, hidden]."""
        spans = [slice(s, s + n) for s, n in zip(start, length, strict=True)]
        match request.task:
            case "embed":
                return [self._embed(request, x[span]) for span in spans]
            case "classify":
                return list(_probabilities(self._logits(x[list(start)]), self._spec.output))
            case "token_classify":
                made = _probabilities(self._logits(x[: len(ids)]), self._spec.output)
                return [made[span] for span in spans]
            case "fill_mask":
                masked = [span.start + np.flatnonzero(ids[span] == self._mask_id) for span in spans]
                made = torch.log_softmax(self._logits(x[torch.from_numpy(np.concatenate(masked))]), -1).numpy()
                ends = np.cumsum([0, *map(len, masked)])
                return [made[ends[i] : ends[i + 1]] for i in range(len(spans))]

    def _embed(self, request: Encode, states: Tensor) -> NDArray[np.float32]:
        """One vector of a text's states [tokens, hidden], of length 1 if ``normalize``."""
        match self._spec.pooling if request.pooling == "auto" else request.pooling:
            case "mean":
                vector = states.mean(0)
            case "cls":
                vector = states[0]
            case "last":
                vector = states[-1]
        if request.normalize:
            vector = vector / vector.norm().clamp_min(1e-12)
        out: NDArray[np.float32] = vector.numpy()
        return out

    def _logits(self, x: Tensor) -> Tensor:
        """The head's output for rows ``x`` [n, hidden] -> [n, labels or vocab] float32."""
        spec, w, count = self._spec, self._weights, x.shape[0]
        x = torch.cat((x, x.new_zeros(ops.padded_rows(count) - count, x.shape[1])))
        if spec.head_activation is not None:
            x = ops.activate(linear(w, "dense", x), spec.head_activation)
        if spec.head == "fill_mask":
            x = ops.layer_norm(x, w["head_norm.weight"], w["head_norm.bias"], spec.norm_eps)
        return logits(w, "last", x, tied="words.weight" if spec.tied else "")[:count]


def _probabilities(logits: Tensor, output: Output) -> NDArray[np.float32]:
    """[n, labels] -> [n, labels]; identity: the logits themselves (a regression's scores)."""
    if output == "softmax":
        logits = torch.softmax(logits, -1)
    elif output == "sigmoid":
        logits = 1.0 / (1.0 + torch.exp(-logits))
    made: NDArray[np.float32] = logits.numpy()
    return made
