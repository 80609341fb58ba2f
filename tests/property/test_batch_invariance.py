"""The same bits for a sequence whatever shares the batch, however it is cut into steps, wherever its blocks lie."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from decoder_configs import CONFIGS, build
from parity_kit import Arena, save, scratch, step

from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load
from kelm.ops import paged

TOKENS = st.lists(st.integers(0, 96), min_size=1, max_size=150)


@cache
def loaded(family: str, dtype: str) -> LoadedDecoder:
    return load(save(build(family, 1), scratch()), dtype)


def attach(decoder: LoadedDecoder, seed: int, tokens: int = 2000, block_tokens: int = 16) -> Arena:
    arena = Arena(decoder.groups, tokens, seed, block_tokens)
    decoder.attach(arena.kv)
    return arena


def alone(decoder: LoadedDecoder, ids: list[int]) -> np.ndarray:
    return step(decoder, attach(decoder, 0), {0: (ids, 0)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", CONFIGS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_same_bits_in_company_and_in_chunks(family, dtype, data):
    decoder = loaded(family, dtype)
    ids = data.draw(TOKENS, label="sequence")
    wanted = alone(decoder, ids)
    block_tokens = data.draw(st.sampled_from([1, 4, 16, 32]), label="block_tokens")
    arena = attach(decoder, data.draw(st.integers(0, 1 << 30), label="seed"), 2000, block_tokens)
    others: dict[int, int] = {}
    got, at = [], 0
    while at < len(ids):
        size = data.draw(st.integers(1, len(ids) - at) | st.just(1), label="chunk")
        company = data.draw(st.dictionaries(st.integers(1, 5), st.integers(1, 40), max_size=3), label="company")
        work = {
            seq: (np.random.default_rng(seq).integers(0, 97, n).tolist(), others.get(seq, 0))
            for seq, n in company.items()
        }
        others |= {seq: others.get(seq, 0) + n for seq, n in company.items()}
        place = data.draw(st.integers(0, len(work)), label="place")
        order = list(work.items())
        order.insert(place, (0, (ids[at : at + size], at)))
        start = sum(len(tokens) for _, (tokens, _) in order[:place])
        got.append(step(decoder, arena, dict(order))[start : start + size])
        at += size
        if at >= 20 and size == 1:  # enough single steps; the rest in one
            break
    made = np.concatenate(got)
    np.testing.assert_array_equal(made, wanted[: len(made)])


def test_one_in_a_batch_of_32(seed: int = 4):
    decoder = loaded("llama", "float32")
    rng = np.random.default_rng(seed)
    prompts = {seq: rng.integers(0, 97, rng.integers(1, 120)).tolist() for seq in range(32)}
    together = step(decoder, attach(decoder, seed, 6000), {s: (p, 0) for s, p in prompts.items()}, every_row=False)
    for seq, ids in prompts.items():
        np.testing.assert_array_equal(together[seq], alone(decoder, ids)[-1])


def test_many_passes_are_one(monkeypatch):
    """A long chunk is attended in passes of a bounded number of query tiles; where it is cut changes no bit."""
    decoder = loaded("gemma2", "float32")
    ids = np.random.default_rng(2).integers(0, 97, 150).tolist()
    work = {0: (ids, 0), 1: (ids[:40], 0), 2: (ids[:3], 0)}
    whole = step(decoder, attach(decoder, 1), work)
    monkeypatch.setattr(paged, "_ITEMS_PER_PASS", 3)
    np.testing.assert_array_equal(step(decoder, attach(decoder, 1), work), whole)


def test_a_fault_stays_in_its_sequence():
    """NaN in one sequence's keys and values reaches nobody else's rows."""
    decoder = loaded("llama", "float32")
    wanted = alone(decoder, [5, 6, 7])
    arena = attach(decoder, 3)
    step(decoder, arena, {1: ([8, 9], 0), 2: ([1], 0)})
    for block in arena.blocks(1):
        arena.kv[0][block] = np.nan
    got = step(decoder, arena, {1: ([4], 2), 0: ([5, 6, 7], 0), 2: ([3], 1)})
    assert np.isnan(got[0]).all()
    np.testing.assert_array_equal(got[1:4], wanted)
    assert np.isfinite(got[4]).all()
