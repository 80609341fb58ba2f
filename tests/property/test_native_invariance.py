"""The same bits for a sequence whatever shares the batch, however it is cut into steps, on one thread and on two, with
every pass of the plan and without."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from decoder_configs import CONFIGS
from native_kit import attach, files_of_family, open_native
from parity_kit import Arena, step

from kelm.models.graph.plan import PASSES
from kelm.models.native.decoder import NativeDecoder
from kelm.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the install has no compiled kernels")
MOST = 700
"""More rows than a thread's piece of any phase has."""


@cache
def opened(family: str, threads: int = 1, passes: tuple[str, ...] = PASSES) -> NativeDecoder:
    return open_native(files_of_family(family, 1), threads=threads, passes=passes)


def prompt(decoder: NativeDecoder, length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, decoder.spec.vocab, length).tolist()


def whole(decoder: NativeDecoder, ids: list[int]) -> np.ndarray:
    return step(decoder, attach(decoder, len(ids) + 16), {0: (ids, 0)})


@cache
def reference(family: str, length: int) -> np.ndarray:
    decoder = opened(family)
    return whole(decoder, prompt(decoder, length))


def limit(decoder: NativeDecoder, length: int) -> int:
    return min(length, decoder.info.max_context_tokens)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_pass_can_be_left_out(family: str) -> None:
    length = limit(opened(family), MOST)
    wanted = reference(family, length)
    for passes in [*(tuple(p for p in PASSES if p != left) for left in PASSES), ()]:
        decoder = opened(family, 1, passes)
        assert np.array_equal(whole(decoder, prompt(decoder, length)), wanted), set(PASSES) - set(passes)


@pytest.mark.parametrize("family", CONFIGS)
def test_threads_do_not_show(family: str) -> None:
    length = limit(opened(family), MOST)
    decoder = opened(family, 2)
    for _ in range(3):
        assert np.array_equal(whole(decoder, prompt(decoder, length)), reference(family, length))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 33, 128, 512])
def test_chunks_do_not_show(family: str, chunk: int) -> None:
    decoder = opened(family)
    length = limit(decoder, 300 if chunk > 1 else 80)
    ids, arena = prompt(decoder, length), attach(decoder, length + 16, chunk)
    got = [step(decoder, arena, {0: (ids[at : at + chunk], at)}) for at in range(0, length, chunk)]
    assert np.array_equal(np.concatenate(got), whole(decoder, ids))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", CONFIGS)
def test_batches_do_not_show(family: str, threads: int) -> None:
    """One token each for 1 to 64 sequences at different places: what decoding under load is."""
    decoder = opened(family, threads)
    contexts = [5 * n % 90 + 1 for n in range(64)]
    prompts = [prompt(decoder, context + 1, n) for n, context in enumerate(contexts)]
    alone = [whole(opened(family), ids)[-1] for ids in prompts]
    arena = attach(decoder, sum(contexts) + 64 * 32)
    step(decoder, arena, {n: (ids[:-1], 0) for n, ids in enumerate(prompts)})
    for size in (1, 2, 3, 15, 16, 17, 31, 48, 64):
        got = step(decoder, arena, {n: ([prompts[n][-1]], contexts[n]) for n in range(size)})
        assert np.array_equal(got, np.stack(alone[:size])), size


@pytest.mark.parametrize("family", CONFIGS)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_company_does_not_show(family: str, data: st.DataObject) -> None:
    decoder = opened(family, data.draw(st.sampled_from([1, 2]), label="threads"))
    ids = prompt(decoder, data.draw(st.integers(1, 120), label="tokens"), 7)
    wanted = whole(opened(family), ids)
    arena: Arena = attach(decoder, 2000, data.draw(st.integers(0, 1 << 30), label="seed"))
    others: dict[int, int] = {}
    got, at = [], 0
    while at < len(ids):
        size = data.draw(st.integers(1, len(ids) - at), label="chunk")
        company = data.draw(st.dictionaries(st.integers(1, 5), st.integers(1, 40), max_size=3), label="company")
        work = {seq: (prompt(decoder, n, seq), others.get(seq, 0)) for seq, n in company.items()}
        others |= {seq: others.get(seq, 0) + n for seq, n in company.items()}
        place = data.draw(st.integers(0, len(work)), label="place")
        items = [*work.items()]
        items.insert(place, (0, (ids[at : at + size], at)))
        before = sum(len(tokens) for _, (tokens, _) in items[:place])
        made = step(decoder, arena, dict(items))
        got.append(made[before : before + size])
        at += size
    assert np.array_equal(np.concatenate(got), wanted)


def test_wanted_rows_only(family: str = "llama") -> None:
    """Logits of the last rows alone are those among all."""
    decoder = opened(family)
    ids = [prompt(decoder, n, n) for n in (3, 40, 17)]
    alone = [whole(decoder, one)[-1] for one in ids]
    got = step(decoder, attach(decoder, 200), {n: (one, 0) for n, one in enumerate(ids)}, every_row=False)
    assert np.array_equal(got, np.stack(alone))
