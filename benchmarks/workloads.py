"""The work: so many streams, so many tokens in and out, and the figure that is looked at.

Prompts are random token ids from a seed that is the round's number: the same for all who take part in a round, new in
the next, so that nobody finds a prefix in a cache. Speed does not depend on which tokens they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.record import Timing

LOWEST_ID, HIGHEST_ID = 10, 15_000
"""Inside the vocabulary of every checkpoint, past its special tokens."""

Place = Literal["in process", "server", "overhead", "new process"]


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    title: str
    streams: int
    prompt_tokens: int
    tokens: int
    figure: Literal["prefill", "decode", "output", "first token"]
    place: Place = "in process"
    rounds: int = 5

    @property
    def unit(self) -> str:
        return "s" if self.figure == "first token" else "tok/s"

    @property
    def prompt_source(self) -> str:
        return f"random ids of {LOWEST_ID} to {HIGHEST_ID - 1}, seeded by the round, the same for all"

    def prompts(self, round_: int) -> list[list[int]]:
        """[streams][prompt_tokens]"""
        ids = np.random.default_rng(round_).integers(LOWEST_ID, HIGHEST_ID, (self.streams, self.prompt_tokens))
        return ids.tolist()  # type: ignore[no-any-return]

    def measure(self, timing: Timing) -> float:
        """The figure of one run, in ``unit``."""
        match self.figure:
            case "prefill":
                return self.streams * self.prompt_tokens / timing.prefill_s
            case "decode":
                return self.streams * (self.tokens - 1) / (timing.total_s - timing.prefill_s)
            case "output":
                return self.streams * self.tokens / timing.total_s
            case "first token":
                return timing.total_s


WORKLOADS = {
    one.name: one
    for one in (
        Workload("decode", "decode, 1 stream behind a prompt of 512", 1, 512, 129, "decode"),
        Workload("prefill512", "prefill of 512 tokens", 1, 512, 1, "prefill"),
        Workload("prefill4096", "prefill of 4,096 tokens", 1, 4096, 1, "prefill", rounds=3),
        Workload("streams16", "16 streams, 128 in and 64 out", 16, 128, 64, "output"),
        Workload("streams64", "64 streams, 128 in and 64 out", 64, 128, 64, "output", rounds=3),
        Workload("long8", "decode, 8 streams behind prompts of 4,096", 8, 4096, 33, "decode", rounds=3),
        Workload("server16", "16 streams over HTTP, 128 in and 64 out", 16, 128, 64, "output", "server"),
        Workload("overhead", "16 streams over HTTP and without, 128 in and 64 out", 16, 128, 64, "output", "overhead"),
        Workload("cold", "new process to first token, prompt of 16", 1, 16, 1, "first token", "new process"),
    )
}
