"""A quantized model's logits keep their bits alone, in company and in chunks, as a plain one's do."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from decoder_configs import build
from parity_kit import Arena, save, scratch, step

from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load
from kelm.ops.quantized import QuantizedWeight
from quantized_kit import PRECISIONS, source_of, write_quantized

FAMILIES = ["llama", "qwen2", "gemma3_text"]


@cache
def loaded(family: str, precision: str, dtype: str) -> LoadedDecoder:
    folder = scratch()
    save(build(family, 1), folder / "plain")
    source = source_of(folder / "plain", folder / "home")
    head = not source.spec.tied
    decoder = load(write_quantized(source, folder / "made", PRECISIONS[precision], head=head), dtype)
    assert isinstance(decoder, LoadedDecoder)
    return decoder


def alone(decoder: LoadedDecoder, ids: list[int]) -> np.ndarray:
    arena = Arena(decoder.groups, 2000)
    decoder.attach(arena.kv)
    return step(decoder, arena, {0: (ids, 0)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_same_bits_in_company_and_in_chunks(family, precision, dtype, data):
    decoder = loaded(family, precision, dtype)
    assert all(isinstance(decoder._weights[f"layers.0.{n}.weight"], QuantizedWeight) for n in ("qkv", "out", "up"))
    ids = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=100), label="sequence")
    wanted = alone(decoder, ids)
    arena = Arena(decoder.groups, 2000, data.draw(st.integers(0, 1 << 30), label="seed"))
    decoder.attach(arena.kv)
    got, at, others = [], 0, 0
    while at < len(ids):
        size = data.draw(st.integers(1, len(ids) - at), label="chunk")
        company = data.draw(st.integers(0, 40), label="company")
        work = {0: (ids[at : at + size], at)}
        if company:
            work = {1: (np.random.default_rng(at).integers(0, 97, company).tolist(), others)} | work
            others += company
        got.append(step(decoder, arena, work)[company:])
        at += size
        if len(got) == 8:
            break
    made = np.concatenate(got)
    np.testing.assert_array_equal(made, wanted[: len(made)])
