"""What goes into a generation and what comes out, in the ecosystem's words (vLLM's names where it has them)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import FinishReason, Sampling, TokenLogprobs

_BOUNDS = {
    "temperature": limits.TEMPERATURE,
    "top_p": limits.TOP_P,
    "top_k": limits.TOP_K,
    "min_p": limits.MIN_P,
    "repetition_penalty": limits.REPETITION_PENALTY,
    "presence_penalty": limits.PRESENCE_PENALTY,
    "frequency_penalty": limits.FREQUENCY_PENALTY,
    "seed": limits.SEED,
    "n": limits.N,
    "max_tokens": limits.MAX_TOKENS,
    "min_tokens": limits.MIN_TOKENS,
    "logprobs": limits.LOGPROBS,
    "prompt_logprobs": limits.PROMPT_LOGPROBS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are picked. None for one of the first five: the checkpoint's own generation_config.json, else the
    usual default. A field outside its bound (limits.py) is an InvalidRequest when the generation starts."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    """None: a fresh one for each call. The same seed gives the same tokens."""
    n: int = 1
    max_tokens: int | None = None
    """None: 16 for generate (as OpenAI's completions), the rest of the context for chat."""
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: str | None = None
    """An llguidance grammar (kelm.text.grammar makes them)."""
    skip_special_tokens: bool = True

    def to_wire(self, tokenizer: Tokenizer, own: Mapping[str, Any], max_tokens: int) -> Sampling:
        """Checked, with the checkpoint's ``own`` defaults filled in."""
        for name, bound in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None:
                bound.check(value, field=name)
        for value in self.logit_bias.values():
            limits.LOGIT_BIAS.check(value)
        if self.min_tokens > max_tokens:
            raise InvalidRequest(f"min_tokens is {self.min_tokens}, more than max_tokens ({max_tokens})")
        ends: tuple[int, ...] = () if self.ignore_eos else tokenizer.eos_ids
        return Sampling(
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            temperature=self._own("temperature", own),
            top_k=max(0, int(self._own("top_k", own))),
            top_p=self._own("top_p", own),
            min_p=self._own("min_p", own),
            repetition_penalty=self._own("repetition_penalty", own),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=dict(self.logit_bias),
            stop_token_ids=tuple(dict.fromkeys((*self.stop_token_ids, *ends))),
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            grammar=self.grammar,
        )

    def _own(self, name: str, own: Mapping[str, Any]) -> Any:
        value = getattr(self, name)
        return own.get(name, _BOUNDS[name].default) if value is None else value


@dataclass(slots=True)
class Completion:
    """One choice of one prompt."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or token id that ended it."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One token of a token classification."""

    text: str
    label: str
    probability: float
