"""What a run measures: how many tokens in and out, how many streams, how often."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kelm import limits
from kelm.errors import ContextTooLong, InvalidRequest

CURVE = (1, 2, 4, 8, 16)
CURVE_PROMPT = 128
"""Tokens of each stream's prompt on the batch curve, or the prompt's where that is shorter."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``prompt_tokens``, ``tokens``: None for the usual, or what fits the model. Raises InvalidRequest."""

    prompt_tokens: int | None = None
    tokens: int | None = None
    streams: tuple[int, ...] = CURVE
    repeats: int = int(limits.BENCH_REPEATS.value)

    def __post_init__(self) -> None:
        for name, bound in (("prompt_tokens", limits.BENCH_PROMPT), ("tokens", limits.BENCH_TOKENS)):
            if getattr(self, name) is not None:
                bound.check(getattr(self, name), field=name)
        limits.BENCH_REPEATS.check(self.repeats, field="repeats")
        for count in self.streams:
            limits.BENCH_STREAMS.check(count, field="streams")

    def fitted(self, context_tokens: int) -> Plan:
        """With both numbers filled in. Raises ContextTooLong."""
        prompt = self.prompt_tokens or max(1, min(int(limits.BENCH_PROMPT.value), context_tokens // 2))
        tokens = self.tokens or max(2, min(int(limits.BENCH_TOKENS.value), context_tokens // 4))
        if prompt + tokens > context_tokens:
            raise ContextTooLong(
                f"{prompt} prompt tokens and {tokens} tokens do not fit the context of {context_tokens}; "
                "shorten one of them (--prompt-tokens, --tokens)"
            )
        return replace(self, prompt_tokens=prompt, tokens=tokens)


def read_streams(text: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers, each once, in rising order. Raises InvalidRequest."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise InvalidRequest(
            f"--streams must be numbers such as 1,4,16, got {limits.shown(text)}", param="streams"
        ) from None
