"""Runs work on an Engine to its end and turns its reports into texts: the daemon's part, without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kelm.errors import by_code
from kelm.library.params import Completion, SamplingParams
from kelm.text.stream import Released, TextStream
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import Cancel, Failed, PromptLogprobs, Report, Sampling, Step, Submit, Tokens
from kelm.worker.engine import Engine

Watch = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt and how to answer it."""

    prompt: list[int]
    sampling: Sampling
    params: SamplingParams


class _Choice:
    def __init__(self, tokenizer: Tokenizer, ask: Ask) -> None:
        params = ask.params
        self.stream = TextStream(
            tokenizer,
            params.stop,
            include_stop=params.include_stop,
            skip_special_tokens=params.skip_special_tokens,
        )
        self.result = Completion(prompt_token_ids=ask.prompt)

    def push(self, tokens: Tokens) -> None:
        self._add(self.stream.push(tokens.ids, tokens.logprobs, stop_token=tokens.stop_token))
        if self.stream.stop is None and tokens.finish is not None:
            self._add(self.stream.flush())
        if self.stream.stop is not None:
            self.result.finish_reason, self.result.stop_reason = "stop", self.stream.stop
        elif tokens.finish is not None:
            self.result.finish_reason, self.result.stop_reason = tokens.finish, tokens.stop_token

    def _add(self, released: Released) -> None:
        self.result.text += released.text
        self.result.token_ids += released.ids
        self.result.logprobs += released.logprobs


class Runner:
    """Drives one engine; pids are its own. The engine's ``report`` must be this runner's."""

    def __init__(self) -> None:
        self._next_pid = 1
        self._failed: dict[int, Failed] = {}

    def report(self, report: Report) -> None:
        if isinstance(report, Failed):
            self._failed[report.pid] = report

    def pid(self) -> int:
        self._next_pid += 1
        return self._next_pid - 1

    def run(
        self, engine: Engine, model: str, tokenizer: Tokenizer, asks: Sequence[Ask], watch: Watch = lambda step: None
    ) -> list[list[Completion]]:
        """For each ask its n completions. Raises what the first failed one failed with, when all have ended."""
        choices: dict[tuple[int, int], _Choice] = {}
        pids = [self.pid() for _ in asks]
        try:
            for pid, ask in zip(pids, asks, strict=True):
                submit = Submit(pid=pid, model=model, prompt=ask.prompt, sampling=ask.sampling, n=ask.params.n)
                engine.submit(submit)
                for choice in range(ask.params.n):
                    choices[pid, choice] = _Choice(tokenizer, ask)
            while engine.has_work():
                step = engine.step()
                if step is not None:
                    self._take(engine, choices, step)
                    watch(step)
        except BaseException:  # Ctrl-C too: the engine goes on to be used
            for pid in pids:
                engine.cancel(Cancel(pid))
            raise
        for pid in pids:
            if pid in self._failed:
                failed = self._failed.pop(pid)
                raise by_code(failed.code)(failed.message)
        return [
            [choices[pid, choice].result for choice in range(ask.params.n)] for pid, ask in zip(pids, asks, strict=True)
        ]

    def _take(self, engine: Engine, choices: dict[tuple[int, int], _Choice], step: Step) -> None:
        for prompt in step.prompts:
            self._prompt(choices, prompt)
        for tokens in step.tokens:
            choice = choices.get((tokens.pid, tokens.choice))
            if choice is None or choice.result.finish_reason is not None:
                continue
            choice.push(tokens)
            if choice.stream.stop is not None and tokens.finish is None:
                engine.cancel(Cancel(tokens.pid, tokens.choice))

    def _prompt(self, choices: dict[tuple[int, int], _Choice], prompt: PromptLogprobs) -> None:
        for (pid, _), choice in choices.items():
            if pid == prompt.pid:
                choice.result.prompt_logprobs = prompt.entries
