"""Packing loses nothing and lets nothing leak; a step's rows are a pure function of its number."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.tune.decoder import Decoder
from kelm.tune.documents import Document
from kelm.tune.packing import batch_rows, pack
from kelm.tune.recipe import Shape

SHAPE = Shape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def document(length: int, seed: int) -> Document:
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 90, length).astype(np.int32)
    weights = rng.random(length).astype(np.float32) + 0.1
    weights[0] = 0
    return Document(ids, weights, length)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_every_token_is_packed_once(lengths: list[int]) -> None:
    documents = [document(length, seed) for seed, length in enumerate(lengths)]
    rows = pack(documents, 24)
    assert rows.cut_documents == sum(length > 24 for length in lengths)
    found = []
    for ids, segments, weights, positions in zip(rows.ids, rows.segments, rows.weights, rows.positions, strict=True):
        assert not weights[segments == 0].any()
        for segment in range(1, segments.max() + 1):
            mine = segments == segment
            assert (positions[mine] == np.arange(mine.sum())).all()
            found.append((ids[mine].tobytes(), weights[mine].tobytes()))
    assert sorted(found) == sorted((d.ids[:24].tobytes(), d.weights[:24].tobytes()) for d in documents)


def test_a_packed_row_computes_what_each_document_alone_would() -> None:
    decoder = Decoder(SHAPE, 90).eval()
    decoder.initialize(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)  # peaked attention: a leak would show
    documents = [document(length, length) for length in (9, 5, 7)]
    packed, alone = pack(documents, 24), [pack([one], 24) for one in documents]
    assert len(packed) == 1

    def logits(rows: object) -> torch.Tensor:
        arrays = (torch.from_numpy(getattr(rows, name)) for name in ("ids", "positions", "segments"))
        ids, positions, segments = arrays
        with torch.no_grad():
            return decoder(ids.long(), positions, segments)[0]

    together = logits(packed)
    for segment, rows in enumerate(alone, 1):
        mine = torch.from_numpy(packed.segments[0] == segment)
        torch.testing.assert_close(together[mine], logits(rows)[: int(mine.sum())], rtol=1e-4, atol=1e-4)


def test_each_epoch_visits_every_row_once_in_an_order_of_its_own() -> None:
    steps = [batch_rows(10, 4, step, seed=3) for step in range(5)]
    order = np.concatenate(steps)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert (order[:10] != order[10:]).any()
    assert (batch_rows(10, 4, 3, seed=3) == steps[3]).all()
    assert (np.concatenate([batch_rows(10, 4, step, seed=4) for step in range(5)]) != order).any()
