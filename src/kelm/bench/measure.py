"""A model through a plan. Prompts are fresh random tokens each time, so that no prefix is in the cache."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np

from kelm import machine
from kelm.bench.bandwidth import Bandwidth
from kelm.bench.figures import Decode, Figures
from kelm.bench.plan import CURVE_PROMPT, Plan
from kelm.clock import SYSTEM, Clock
from kelm.errors import OutOfMemory, UnsupportedModel
from kelm.library import LLM, SamplingParams
from kelm.ops import native
from kelm.wire.messages import Step

Progress = Callable[[str, int, int], None]
"""(what is measured, runs done, runs in all)"""


class Stopwatch:
    """Times the steps of one run: ``watch`` of LLM.generate."""

    def __init__(self, streams: int, clock: Clock) -> None:
        self._streams = streams
        self._clock = clock
        self._began_s = self._last_s = clock.monotonic_s()
        self._started: set[int] = set()
        self._prefill_s: float | None = None
        self.full_s: list[float] = []
        """Of the steps that gave every stream a token, and did nothing else."""
        self.full_tokens = 0

    def __call__(self, step: Step) -> None:
        now_s = self._clock.monotonic_s()
        decoding = len(self._started) == self._streams
        self._started |= {tokens.pid for tokens in step.tokens}
        if decoding and len(step.tokens) == self._streams:
            self.full_s.append(now_s - self._last_s)
            self.full_tokens += sum(len(tokens.ids) for tokens in step.tokens)
        if self._prefill_s is None and len(self._started) == self._streams:
            self._prefill_s = now_s - self._began_s
        self._last_s = now_s

    @property
    def prefill_s(self) -> float:
        """From the beginning until every stream had a token."""
        assert self._prefill_s is not None, "no run yet"
        return self._prefill_s


class _Bench:
    """One model at work, the bandwidth measured before each run."""

    def __init__(self, llm: LLM, plan: Plan, progress: Progress, clock: Clock) -> None:
        self._llm = llm
        self._plan = plan
        self._progress = progress
        self._clock = clock
        self._random = np.random.default_rng(0)
        self._done = 0
        self.weight_bytes = llm.info.weight_bytes + llm.info.shared_bytes
        self._memory = Bandwidth(self.weight_bytes, llm.settings.threads, clock) if native.available() else None
        self._seen: list[float] = []

    @property
    def bandwidth(self) -> float | None:
        return median(self._seen) if self._seen else None

    def prefill_s(self) -> float:
        prompt = self._plan.prompt_tokens or 0
        self._timed(1, prompt, 1)  # what is made at first use is not measured
        return median(one.prefill_s for one in self._repeated("prefill", lambda: self._timed(1, prompt, 1)))

    def decode(self, streams: int) -> Decode:
        """Raises OutOfMemory."""
        prompt = min(CURVE_PROMPT, self._plan.prompt_tokens or 0)
        # The last stream begins some steps after the first: so many tokens more, and they meet.
        chunks = -(-streams * prompt // self._llm.settings.step_tokens)
        tokens = min((self._plan.tokens or 0) + chunks, self._llm.info.max_context_tokens - prompt)
        runs = self._repeated(f"{streams} at once", lambda: self._timed(streams, prompt, tokens))
        if not all(one.full_s for one in runs):
            raise OutOfMemory(
                f"{streams} streams of {prompt + tokens} tokens never ran together; give Kelm more memory "
                "(KELM_MEMORY), or ask for fewer --streams or --tokens"
            )
        return Decode(
            streams,
            median(one.full_tokens / sum(one.full_s) for one in runs),
            median(sum(one.full_s) / len(one.full_s) for one in runs),
        )

    def _repeated(self, name: str, run: Callable[[], Stopwatch]) -> list[Stopwatch]:
        runs: list[Stopwatch] = []
        total = self._plan.repeats * (1 + len(self._plan.streams))
        for _ in range(self._plan.repeats):
            self._progress(name, self._done, total)
            if self._memory is not None:
                self._seen.append(self._memory.measure())
            runs.append(run())
            self._done += 1
        self._progress(name, self._done, total)
        return runs

    def _timed(self, streams: int, prompt: int, tokens: int) -> Stopwatch:
        ids = self._random.integers(0, self._llm.info.vocab, (streams, prompt)).tolist()
        watch = Stopwatch(streams, self._clock)
        self._llm.generate(ids, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True), watch=watch)
        return watch


def measure(
    llm: LLM, plan: Plan, load_s: float, progress: Progress = lambda what, done, total: None, clock: Clock = SYSTEM
) -> Figures:
    """Run ``llm`` through ``plan``; ``load_s`` is what bringing it up took.

    Raises UnsupportedModel where it can't generate, ContextTooLong, OutOfMemory.
    """
    info = llm.info
    if "generate" not in info.tasks:
        raise UnsupportedModel(
            f"{llm.name} ({info.architecture}) can {', '.join(info.tasks)}; kelm bench measures models that generate"
        )
    plan = plan.fitted(info.max_context_tokens)
    bench = _Bench(llm, plan, progress, clock)
    first_token_s = bench.prefill_s()
    return Figures(
        model=llm.name,
        architecture=info.architecture,
        executor=info.executor,
        dtype=info.dtype,
        threads=llm.settings.threads,
        processor=machine.cpu_model(),
        isa=native.isa() if native.available() else None,
        parameters=info.parameters,
        weight_bytes=bench.weight_bytes,
        load_s=load_s,
        prompt_tokens=plan.prompt_tokens or 0,
        first_token_s=first_token_s,
        tokens=plan.tokens or 0,
        decode=tuple(bench.decode(streams) for streams in plan.streams),
        bandwidth=bench.bandwidth,
    )
