"""One model's figures: loaded by the engine that serves, in this process, and gone again."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kelm.compress import texts
from kelm.compress.texts import Tokens
from kelm.errors import InvalidRequest
from kelm.evaluate import Task
from kelm.evaluate.scoring import logprobs
from kelm.library import LLM

Report = Callable[[int, int], None]
AT_ONCE = 16
"""Windows handed to the engine together; it does not change a result."""


@dataclass(frozen=True, slots=True)
class Measured:
    """``perplexity`` is of ``tokens``; None where it is past every number."""

    weight_bytes: int
    perplexity: float | None
    tokens: Tokens


def measure(model: str, on: Tokens | Task | None, report: Report, **settings: Any) -> Measured:
    """``on`` None: on what the model writes. ``settings``: as for LLM.

    Raises OutOfMemory, UnsupportedModel, InvalidRequest, and what ``report`` raises.
    """
    with closing(LLM(model, **settings)) as llm:
        if isinstance(on, Task):
            on = texts.tokens_of(llm, on)
        if on is None:  # half of the work is to write them
            on = texts.sampled(llm, lambda done, total: report(done, 2 * total))
            return _measured(llm, on, lambda done, total: report(total + done, 2 * total))
        return _measured(llm, on, report)


def _measured(llm: LLM, on: Tokens, report: Report) -> Measured:
    return Measured(llm.info.weight_bytes, _perplexity(llm, on, report), on)


def _perplexity(llm: LLM, on: Tokens, report: Report) -> float | None:
    total, count = 0.0, 0
    for start in range(0, len(on.windows), AT_ONCE):
        report(start, len(on.windows))
        for made in logprobs(llm, on.windows[start : start + AT_ONCE]):
            total += sum(made)
            count += len(made)
    if not count:
        raise InvalidRequest(f"{on.name}: there is no token to measure on; give a text with --text")
    try:
        return math.exp(-total / count)
    except OverflowError:
        return None
