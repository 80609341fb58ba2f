"""Log-probabilities of the model's own distribution: before bias, penalties, temperature and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kelm.wire.messages import TokenLogprobs


def score(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprobs:
    """``token``'s log-probability and rank in ``logits`` [vocab], and the ``top`` most likely tokens."""
    wide = logits.astype(np.float64)
    most = wide.max()
    total = most + np.log(np.exp(wide - most).sum())
    best = [(int(one), float(wide[one] - total)) for one in most_likely(logits, top)]
    rank = 1 + int(np.count_nonzero(logits > logits[token]))
    return TokenLogprobs(token, float(wide[token] - total), rank, best)


def most_likely(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Ids of the ``count`` largest values, largest first, the lowest id first among equals."""
    count = min(count, len(logits))
    if count == 0:
        return np.empty(0, np.int64)
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    ids = np.flatnonzero(logits >= least)
    return ids[np.argsort(-logits[ids], kind="stable")][:count]
