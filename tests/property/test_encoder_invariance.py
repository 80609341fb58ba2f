"""A text's result has the same bits whatever else is in the batch, for every family and head."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from encoder_configs import CONFIGS, HEADS, build, save
from parity_kit import scratch

from kelm.models import encoder as encoder_module
from kelm.models.encoder import LoadedEncoder
from kelm.models.loader import load
from kelm.wire.messages import Encode

TEXT = st.lists(st.integers(0, 96), min_size=1, max_size=140)


@cache
def loaded(family: str, head: str) -> LoadedEncoder:
    return load(save(build(family, head, 1), scratch()), "float32")


def run(encoder: LoadedEncoder, task: str, inputs: list[list[int]]) -> list[np.ndarray]:
    return encoder.run(Encode(pid=1, model="m", task=task, inputs=inputs))


@pytest.mark.parametrize("family", CONFIGS)
@settings(deadline=None, max_examples=12)
@given(
    text=TEXT, before=st.lists(TEXT, max_size=3), after=st.lists(TEXT, max_size=3), head=st.sampled_from(list(HEADS))
)
def test_same_bits_in_company(family, text, before, after, head):
    encoder = loaded(family, head)
    for task in encoder.tasks:
        alone = run(encoder, task, [text])[0]
        np.testing.assert_array_equal(run(encoder, task, [*before, text, *after])[len(before)], alone)


def test_a_batch_of_many_passes(monkeypatch):
    encoder = loaded("bert", "none")
    texts = [[n % 90] * (1 + n % 50) for n in range(60)]
    whole = run(encoder, "embed", texts)
    monkeypatch.setattr(encoder_module, "_ROWS_AT_ONCE", 64)
    for one, other in zip(whole, run(encoder, "embed", texts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_batch():
    assert run(loaded("bert", "none"), "embed", []) == []
