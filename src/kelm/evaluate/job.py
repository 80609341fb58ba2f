"""An evaluation as a job: the figures of `kelm eval`, from a process of its own that can be followed and cancelled."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from kelm.context import Context
from kelm.evaluate.runner import evaluate
from kelm.evaluate.tasks import read
from kelm.library import LLM
from kelm.wire.jobs import Evaluate


def run(spec: Evaluate, context: Context) -> dict[str, Any]:
    """The result's JSON (results.Result). An evaluation that is killed begins anew: it has nothing to keep.

    Raises InvalidRequest (the task, with the line), UnsupportedModel, ModelNotFound, OutOfMemory, Cancelled.
    """
    task = read(context.data, spec.limit, spec.file)
    context.line(f"{spec.file}: {task.kind}, {len(task.rows)} rows, on {spec.model}")

    def progress(done: int, rows: int) -> None:
        context.leave_if_stopping()
        context.progress(done, rows, "rows")

    with closing(LLM(spec.model, home=context.home, threads=context.threads, memory=context.memory_bytes)) as llm:
        result = evaluate(llm, task, progress, max_tokens=spec.max_tokens)
    for name, value in result.metrics.items():
        context.line(f"{name} {value:.4f}")
    return result.as_json()
