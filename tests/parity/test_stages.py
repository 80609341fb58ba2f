"""A decoder cut into stages computes what the whole one computes, bit for bit, for every family and every cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import decoder_configs
import numpy as np
import pytest
from parity_kit import Arena, save, step

from kelm.models.batch import Batch
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load, load_part, outline
from kelm.models.part import Part


class Chain:
    """Stages one after another, in one process: an executor whose KV is each stage's own."""

    name = "chain"

    def __init__(self, stages: Sequence[LoadedDecoder], tokens: int) -> None:
        self.groups = stages[0].groups
        self._stages = stages
        for stage in stages:
            arena = Arena(stage.groups, tokens)
            stage.attach(arena.kv)

    def forward(self, batch: Batch) -> np.ndarray:
        x = None
        for stage in self._stages:
            x = stage.stream(batch, x)
            x = x.clone()  # as from a wire
        return self._stages[-1].logits(x, batch.logit_rows)

    def fork(self, parent: int, child: int) -> None: ...

    def forget(self, seq: int) -> None: ...


def _cuts(depth: int, rng: random.Random) -> list[Part]:
    ends = [*sorted(rng.sample(range(1, depth), rng.randint(1, depth - 1))), depth]
    return [Part(range(a, b), depth) for a, b in zip([0, *ends], ends, strict=False)]


def _logits(executor: LoadedDecoder | Chain, arena: Arena) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    work = {7: rng.integers(0, 97, 21).tolist(), 9: rng.integers(0, 97, 90).tolist()}
    whole = [step(executor, arena, {seq: (ids[:-2], 0) for seq, ids in work.items()})]
    for back in (2, 1):
        whole.append(step(executor, arena, {seq: ([ids[-back]], len(ids) - back) for seq, ids in work.items()}))
    return whole


@pytest.mark.parametrize("family", sorted(decoder_configs.CONFIGS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stages_give_the_whole_models_bits(family: str, dtype: str, tmp_path: Path) -> None:
    files = save(decoder_configs.build(family, 5), tmp_path)
    whole = load(files, dtype)
    assert isinstance(whole, LoadedDecoder)
    arena = Arena(whole.groups, 200)
    whole.attach([kv.to(whole.dtype) for kv in arena.kv])
    wanted = _logits(whole, arena)
    rng = random.Random(family)
    parts = _cuts(len(whole.spec.layers), rng)
    stages = [load_part(files, dtype, part) for part in parts]
    chain = Chain(stages, 200)
    for stage in stages:
        stage.attach([kv.to(stage.dtype) for kv in Arena(stage.groups, 200).kv])
    for got, want in zip(_logits(chain, Arena(whole.groups, 200)), wanted, strict=True):
        assert np.array_equal(got, want), parts
    sizes = outline(files, dtype)
    for part, stage in zip(parts, stages, strict=True):
        assert sizes.weight_bytes(part) == stage.info.weight_bytes < whole.info.weight_bytes
        assert stage.info.parameters == whole.info.parameters
        assert {name for name in stage._weights if name.startswith("layers.")} == {
            name for name in whole._weights if name.startswith("layers.") and int(name.split(".")[1]) in part.layers
        }
    assert sizes.weight_bytes() == whole.info.weight_bytes
    twice = whole.spec.tied * whole._weights["embed.weight"].nbytes  # a tied table lies at both ends
    assert sum(stage.info.weight_bytes for stage in stages) == whole.info.weight_bytes + twice


def test_a_part_that_is_no_run_is_our_own_mistake() -> None:
    for layers in (range(0), range(2, 1), range(5), range(0, 4, 2)):
        with pytest.raises(AssertionError):
            Part(layers, 4)
