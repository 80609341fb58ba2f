"""What of a sequence the penalties look at, with vLLM's meaning of each.

repetition: over prompt and output, divides positive logits and multiplies negative ones (Keskar et al., CTRL, 2019,
section 4.1); presence and frequency: over the output only, subtracted (OpenAI's API reference).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from kelm.wire.messages import Sampling


def needed(sampling: Sampling) -> bool:
    return bool(sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)


class TokenCounts:
    """Which tokens a sequence has; kept only for those whose sampling needs it."""

    def __init__(self, prompt: list[int], output: list[int]) -> None:
        self._all = dict.fromkeys(prompt + output)
        self._output = Counter(output)

    def add(self, token: int) -> None:
        """An output token."""
        self._all[token] = None
        self._output[token] += 1

    def penalize(self, logits: NDArray[np.float32], sampling: Sampling) -> None:
        """In place; ``logits`` [vocab]."""
        if sampling.repetition_penalty != 1:
            ids = np.fromiter(self._all, np.int64, len(self._all))
            values = logits[ids]
            penalty = np.float32(sampling.repetition_penalty)
            logits[ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._output and (sampling.presence_penalty or sampling.frequency_penalty):
            ids = np.fromiter(self._output, np.int64, len(self._output))
            counts = np.fromiter(self._output.values(), np.float32, len(self._output))
            logits[ids] -= counts * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty)
