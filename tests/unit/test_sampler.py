"""worker/sampler.py, noise.py, penalties.py, logprobs.py against plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelm.errors import InvalidRequest, WorkerFailed
from kelm.wire.messages import Sampling, Submit
from kelm.worker.logprobs import most_likely, score
from kelm.worker.noise import uniform
from kelm.worker.sampler import choose, draw
from kelm.worker.sequence import Generation, Sequence


def sequence(prompt: list[int], generated: list[int], **sampling: object) -> Sequence:
    fields = {"seed": 1, "max_tokens": 100, "temperature": 0.0} | sampling
    submit = Submit(pid=1, model="m", prompt=prompt, sampling=Sampling(**fields))
    return Sequence(1, Generation(submit), 0, generated)


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def support(logits: np.ndarray, **sampling: object) -> set[int]:
    """Every token that some noise picks."""
    chosen = Sampling(seed=1, max_tokens=1, **sampling)
    return {draw(logits, chosen, noise) for noise in np.linspace(0, 1, 4001)[:-1]}


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert choose(row(0, 3, 1, 3), sequence([1], [])) == 1


def test_not_finite_logits_are_the_models_fault() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(WorkerFailed, match="not finite"):
            choose(row(0, bad, 1), sequence([1], []))


def test_logits_are_left_alone() -> None:
    logits = row(1, 2, 3)
    choose(logits, sequence([0], [1], repetition_penalty=2.0, logit_bias={0: 50.0}, banned_token_ids=(2,)))
    assert logits.tolist() == [1, 2, 3]


def test_masks_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(InvalidRequest, match="no token may follow"):
        choose(row(1, 2), sequence([1], [], banned_token_ids=(0, 1)))


def test_min_tokens_bans_stop_tokens_until_then() -> None:
    kinds = {"stop_token_ids": (2, 999), "min_tokens": 2}
    assert choose(row(0, 1, 9), sequence([1], [0], **kinds)) == 1
    assert choose(row(0, 1, 9), sequence([1], [0, 0], **kinds)) == 2


def test_logit_bias() -> None:
    assert choose(row(0, 1, 9), sequence([1], [], logit_bias={0: 9.5})) == 0
    assert choose(row(0, 1, 9), sequence([1], [], logit_bias={2: -100.0})) == 1


def test_penalties_have_vllms_meaning() -> None:
    held = sequence([0, 3], [1, 1, 4], repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    logits = row(4, -2, 5, 0, 6, 7)
    assert held.counts is not None
    held.counts.penalize(logits, held.generation.sampling)
    # prompt and output: 0, 3, 1, 4 divided or multiplied by 2; output only: 1 twice, 4 once
    assert logits.tolist() == [2, -4 - 0.5 - 0.5, 5, 0, 3 - 0.5 - 0.25, 7]


def test_an_accepted_token_counts() -> None:
    held = sequence([0], [], frequency_penalty=2.0)
    assert choose(row(0, 1), held) == 1
    held.accept(1)
    assert choose(row(0, 1), held) == 0


def test_top_k_top_p_min_p_cut_where_they_should() -> None:
    logits = np.log(row(0.5, 0.25, 0.125, 0.125))
    assert support(logits) == {0, 1, 2, 3}
    assert support(logits, top_k=2) == {0, 1}
    assert support(logits, top_k=1) == {0}
    assert support(logits, top_p=0.5) == {0}
    assert support(logits, top_p=0.51) == {0, 1}
    assert support(logits, top_p=0.76) == {0, 1, 2}
    assert support(logits, top_p=0.0) == {0}
    assert support(logits, min_p=0.26) == {0, 1}
    assert support(logits, min_p=1.0) == {0}
    assert support(logits, top_k=3, top_p=0.9) >= {0, 1, 2}  # equals at the k-th place stay
    assert support(logits, temperature=1e-6) == {0}


def test_top_p_on_a_wide_flat_row_needs_more_than_its_first_guess() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=5000).astype(np.float32) * np.float32(0.1)
    weights = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    kept = set(order[before < 0.9 * weights.sum()].tolist())
    chosen = Sampling(seed=1, max_tokens=1, top_p=0.9)
    drawn = {draw(logits, chosen, noise) for noise in np.linspace(0, 1, 3000)[:-1]}
    assert drawn <= kept
    assert len(drawn) > 1000  # many more than the first guess holds


def test_draws_follow_the_distribution() -> None:
    logits = row(0.3, -1, 2, 0.5, -0.2)
    chosen = Sampling(seed=1, max_tokens=1, temperature=0.7)
    draws = 20_000
    counts = np.bincount([draw(logits, chosen, uniform(7, 0, p)) for p in range(draws)], minlength=5)
    expected = np.exp(logits / 0.7)
    expected *= draws / expected.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 18.5  # 4 degrees of freedom, p = 0.001


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 127), st.integers(0, 1 << 20))
def test_noise_is_in_range_and_differs_by_seed_choice_and_position(seed: int, choice: int, position: int) -> None:
    value = uniform(seed, choice, position)
    assert 0 <= value < 1
    assert value == uniform(seed, choice, position)
    assert value != uniform(seed, choice + 1, position)
    assert value != uniform(seed, choice, position + 1)
    assert value != uniform(seed ^ 1, choice, position)


def test_noise_is_uniform() -> None:
    values = np.array([uniform(s, c, p) for s in (0, 1, -1) for c in range(4) for p in range(2000)])
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert ((counts - 1200) ** 2 / 1200).sum() < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_noise_pick_tokens_that_may_be_picked(noise: float) -> None:
    logits = row(-np.inf, 0, 1, -np.inf)
    assert draw(logits, Sampling(seed=1, max_tokens=1), noise) in (1, 2)


def test_score_is_log_softmax_with_rank_and_top() -> None:
    logits = row(1, 3, 2, 3, -1)
    scored = score(logits, 2, 3)
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    assert scored.token == 2
    assert scored.rank == 3
    assert math.isclose(scored.logprob, expected[2], rel_tol=1e-12)
    assert [token for token, _ in scored.top] == [1, 3, 2]
    assert score(logits, 1, 0).rank == score(logits, 3, 0).rank == 1
    assert score(logits, 1, 0).top == []


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 40))
def test_most_likely_is_a_stable_sort(values: list[int], count: int) -> None:
    logits = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert most_likely(logits, count).tolist() == expected
