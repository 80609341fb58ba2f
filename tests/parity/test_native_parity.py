"""The native executor against the torch decoder, on random small checkpoints of every decoder family."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_configs import CONFIGS
from native_kit import attach, files_of_family, open_native, open_torch
from parity_kit import step

SEEDS = (0, 1, 2)


def error(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square of the difference, in standard deviations of the logits."""
    return float(np.sqrt(np.mean((mine - theirs) ** 2)) / theirs.std())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_logits(family: str, seed: int) -> None:
    """bfloat16 rounds the torch decoder's own logits by as much, seen from float32: neither is further off."""
    files = files_of_family(family, seed)
    native, torch, exact = open_native(files), open_torch(files), open_torch(files, "float32")
    rng = np.random.default_rng(seed)
    lengths = [1, 2, 16, 17, 65, 200]
    arenas = [attach(decoder, sum(lengths) + 16 * len(lengths), seed) for decoder in (native, torch, exact)]
    errors = []
    for seq, length in enumerate(lengths):
        ids = rng.integers(0, native.spec.vocab, length).tolist()
        work = {seq: (ids, 0)}
        mine, theirs, wanted = (step(*pair, work) for pair in zip((native, torch, exact), arenas, strict=True))
        assert mine.dtype == np.float32 and np.isfinite(mine).all()
        errors.append((error(mine, wanted), error(theirs, wanted)))
    mine, theirs = np.array(errors)[3:].mean(axis=0)
    assert mine < 1.25 * theirs + 0.002, errors
    assert mine < 0.5, errors
