"""Drives an engine to the end of its work and keeps what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kelm.wire.messages import Counters, Failed, Load, PromptLogprobs, Report, Step, StepBegin, Submit, TokenLogprobs
from kelm.worker.engine import Engine
from kelm.worker.opened import Opener
from kelm.worker.settings import EngineSettings

Choice = tuple[int, int]
"""(pid, choice)"""


@dataclass
class Transcript:
    """What the reports of an engine or a worker added up to."""

    tokens: dict[Choice, list[int]] = field(default_factory=dict)
    logprobs: dict[Choice, list[TokenLogprobs]] = field(default_factory=dict)
    ends: dict[Choice, tuple[str, int | None]] = field(default_factory=dict)
    """Finish reason and stop token; each choice at most once."""
    prompts: dict[int, PromptLogprobs] = field(default_factory=dict)
    failed: dict[int, Failed] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    begun: list[StepBegin] = field(default_factory=list)
    counters: Counters | None = None

    def hear(self, report: Report) -> None:
        """Add a report; AssertionError where a choice goes on after its end."""
        if isinstance(report, Failed):
            assert report.pid not in self.failed, "failed twice"
            self.failed[report.pid] = report
        elif isinstance(report, StepBegin):
            self.begun.append(report)
        elif isinstance(report, Step):
            self._hear_step(report)

    def _hear_step(self, step: Step) -> None:
        self.counters = step.counters
        self.cached |= {one.pid: one.cached_tokens for one in step.started}
        self.prompts |= {one.pid: one for one in step.prompts}
        for one in step.tokens:
            choice = (one.pid, one.choice)
            assert choice not in self.ends, "a choice went on after its end"
            self.tokens.setdefault(choice, []).extend(one.ids)
            self.logprobs.setdefault(choice, []).extend(one.logprobs or [])
            if one.finish is not None:
                self.ends[choice] = (one.finish, one.stop_token)


class Driver:
    """An engine with one model, ``model``, and the transcript of everything that it reported."""

    def __init__(self, settings: EngineSettings, opener: Opener, files: dict[str, str] | None = None) -> None:
        self.heard = Transcript()
        self.engine = Engine(settings, opener, self.heard.hear)
        self.loaded = self.engine.load(Load(model="model", files=files or {}))

    def run(
        self,
        submits: Iterable[Submit],
        *,
        between: Callable[[Driver, int], None] = lambda driver, step: None,
        most_steps: int = 20_000,
    ) -> Transcript:
        """Submit, then step until nothing is left. ``between`` is called with the step's number before each step."""
        for submit in submits:
            self.engine.submit(submit)
        for number in range(most_steps):
            between(self, number)
            if not self.engine.has_work():
                return self.heard
            step = self.engine.step()
            assert step is not None, "work, but no step: the engine is stuck"
            self.heard.hear(step)
            self.engine.check()
        raise AssertionError(f"not done after {most_steps} steps")
