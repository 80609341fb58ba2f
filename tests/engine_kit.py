"""Workloads for the engine, their undisturbed answers, and ways to disturb."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from kelm.testing.drive import Driver, Transcript
from kelm.wire.messages import Sampling, Submit
from kelm.worker.settings import EngineSettings

ROOMY = EngineSettings(memory_bytes=64 << 20, kv_bytes=8 << 20, slab_bytes=1 << 16, step_tokens=512)
MakeDriver = Callable[[EngineSettings], Driver]


@dataclass(frozen=True)
class Shape:
    """What requests look like."""

    vocab: int
    longest_prompt: int = 90
    most_tokens: int = 24


def workload(rng: random.Random, count: int, shape: Shape) -> list[Submit]:
    """Requests of mixed lengths, greedy and seeded, some with forks, penalties, cuts and log-probabilities."""
    return [_request(rng, pid, shape) for pid in range(count)]


def _request(rng: random.Random, pid: int, shape: Shape) -> Submit:
    length = rng.choice([1, 2, 15, 16, 17, rng.randint(1, shape.longest_prompt)])
    sampling = Sampling(
        seed=rng.getrandbits(63),
        max_tokens=rng.randint(1, shape.most_tokens),
        temperature=rng.choice([0.0, 0.7, 1.0, 1.7]),
        top_k=rng.choice([0, 0, 5]),
        top_p=rng.choice([1.0, 1.0, 0.8]),
        min_p=rng.choice([0.0, 0.05]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
        presence_penalty=rng.choice([0.0, 0.5]),
        frequency_penalty=rng.choice([0.0, -0.3]),
        stop_token_ids=rng.choice([(), (rng.randrange(shape.vocab),)]),
        min_tokens=rng.choice([0, 0, 5]),
        logprobs=rng.choice([None, 0, 3]),
        prompt_logprobs=rng.choice([None, None, 2]),
    )
    prompt = [rng.randrange(shape.vocab) for _ in range(length)]
    return Submit(pid=pid, model="model", prompt=prompt, sampling=sampling, n=rng.choice([1, 1, 2, 3, 4]))


def alone(make: MakeDriver, requests: list[Submit]) -> Transcript:
    """Each request in an engine of its own, with room."""
    together = Transcript()
    for request in requests:
        heard = make(ROOMY).run([request])
        assert heard.counters is not None and heard.counters.preemptions == 0
        together.tokens |= heard.tokens
        together.logprobs |= heard.logprobs
        together.ends |= heard.ends
        together.prompts |= heard.prompts
    return together


def same(got: Transcript, wanted: Transcript) -> None:
    """Equal to the last bit, log-probabilities included."""
    assert not got.failed
    assert got.tokens == wanted.tokens
    assert got.ends == wanted.ends
    assert got.logprobs == wanted.logprobs
    assert got.prompts == wanted.prompts


def baseline(heard: Transcript) -> None:
    """Every block came back."""
    assert heard.counters is not None
    assert heard.counters.blocks_free == heard.counters.blocks_total
    assert heard.counters.running == 0


def resubmissions(requests: list[Submit], heard: Transcript) -> list[Submit]:
    """What a daemon submits to the next worker: known tokens, and which choices are over."""
    again = []
    for request in requests:
        choices = range(request.n)
        finished = [choice for choice in choices if (request.pid, choice) in heard.ends]
        known = [heard.tokens.get((request.pid, choice), []) for choice in choices]
        if len(finished) < request.n:
            again.append(msgspec.structs.replace(request, generated=known, finished=finished))
    return again


def joined(first: Transcript, second: Transcript) -> Transcript:
    """Two workers' reports, one after the other."""
    whole = Transcript(ends=first.ends | second.ends, prompts=second.prompts | first.prompts, failed=second.failed)
    for part in (first, second):
        for choice, ids in part.tokens.items():
            whole.tokens.setdefault(choice, []).extend(ids)
        for choice, scores in part.logprobs.items():
            whole.logprobs.setdefault(choice, []).extend(scores)
    return whole
