"""Logits -> token, one row at a time, so that a row's result can't depend on its company.

    mask (grammar, banned, stop tokens before min_tokens) -> logit bias -> penalties
    temperature 0: the largest, the lowest id among equals
    else: temperature -> min-p and top-k -> top-p -> inverse of the cumulative distribution at uniform(seed, choice,
    position), ids in ascending order

The order and the meaning of each are vLLM's (v1/sample/sampler.py), except that equals at top-p's edge go by id.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kelm.errors import InvalidRequest, WorkerFailed
from kelm.wire.messages import Sampling
from kelm.worker.noise import uniform
from kelm.worker.sequence import Sequence

_NUCLEUS_FIRST = 256
"""Top-p sorts so many of the most likely tokens first, and more only when they don't reach p."""


def choose(logits: NDArray[np.float32], sequence: Sequence) -> int:
    """The next token of ``sequence``. ``logits`` [vocab] is not changed.

    Raises WorkerFailed when the model's output is not finite, InvalidRequest when masks leave no token.
    """
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):  # argmax finds a NaN first
        raise WorkerFailed("the model's output is not finite (NaN or infinity): no token can be chosen")
    sampling = sequence.generation.sampling
    adjusted = _adjusted(logits, sequence)
    if adjusted is not logits:
        best = int(adjusted.argmax())
        if adjusted[best] == -np.inf:
            raise InvalidRequest("no token may follow: grammar, banned and stop tokens together leave none")
    if sampling.temperature == 0:
        return best
    return draw(adjusted, sampling, uniform(sampling.seed, sequence.choice, len(sequence.known)))


def draw(logits: NDArray[np.float32], sampling: Sampling, noise: float) -> int:
    """Sample from ``logits`` [vocab], temperature above 0, at ``noise`` in [0, 1)."""
    ids: NDArray[np.int64] | None = None
    if 0 < sampling.top_k < len(logits):
        ids = np.flatnonzero(logits >= np.partition(logits, -sampling.top_k)[-sampling.top_k])
        logits = logits[ids]
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to -inf
        weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    if sampling.min_p > 0:
        weights[weights < sampling.min_p] = 0
    if sampling.top_p < 1:
        weights = _nucleus(weights, sampling.top_p)
    cumulative = np.cumsum(weights)
    total = cumulative[-1]
    index = int(np.searchsorted(cumulative, min(noise * total, np.nextafter(total, 0)), side="right"))
    return index if ids is None else int(ids[index])


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Zero but for the smallest set of most likely tokens that reaches ``top_p``; at least one token stays."""
    enough = top_p * weights.sum()
    count = min(_NUCLEUS_FIRST, len(weights))
    while True:
        least = np.partition(weights, len(weights) - count)[len(weights) - count]
        ids = np.flatnonzero(weights >= least)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        before = np.cumsum(weights[ids]) - weights[ids]
        if count == len(weights) or before[-1] >= enough:
            break
        count = min(16 * count, len(weights))
    kept = ids[(before < enough) | (np.arange(len(ids)) == 0)]
    nucleus = np.zeros_like(weights)
    nucleus[kept] = weights[kept]
    return nucleus


def _adjusted(logits: NDArray[np.float32], sequence: Sequence) -> NDArray[np.float32]:
    """Masks, bias and penalties, on a copy where there are any."""
    sampling = sequence.generation.sampling
    banned = list(sampling.banned_token_ids)
    if sequence.generated < sampling.min_tokens:
        banned += sampling.stop_token_ids
    if not (banned or sampling.logit_bias or sequence.counts or sequence.grammar):
        return logits
    logits = logits.copy()
    if sequence.grammar is not None:
        sequence.grammar.mask(logits)
    if banned:
        logits[[token for token in banned if token < len(logits)]] = -np.inf
    for token, bias in sampling.logit_bias.items():
        logits[token] += np.float32(bias)
    if sequence.counts is not None:
        sequence.counts.penalize(logits, sampling)
    return logits
