"""One model's figures: loaded by the engine that serves, in this process, and gone again."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kelm.compress import texts
from kelm.evaluate import Task, evaluate
from kelm.evaluate.scoring import begin_token
from kelm.library import LLM

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """``task``: what perplexity is of. ``ids``: its texts as tokens."""

    weight_bytes: int
    perplexity: float | None
    task: Task
    ids: tuple[list[int], ...]


def measure(model: str, task: Task | None, report: Report, **settings: Any) -> Measured:
    """``task`` None: on texts that the model writes. ``settings``: as for LLM.

    Raises OutOfMemory, UnsupportedModel, InvalidRequest, and what ``report`` raises.
    """
    with closing(LLM(model, **settings)) as llm:
        task = texts.sampled(llm, report) if task is None else task
        value = evaluate(llm, task, report).metrics["perplexity"]
        start = begin_token(llm)
        ids = tuple([start, *llm.tokenizer.encode(str(row.source), add_special_tokens=False)] for row in task.rows)
        return Measured(llm.info.weight_bytes, value if math.isfinite(value) else None, task, ids)
