"""A model over a task: the same engine that serves, greedy and seeded, so that a run repeats to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kelm import limits
from kelm.errors import InvalidRequest, KelmError, UnsupportedModel
from kelm.evaluate import metrics
from kelm.evaluate.answering import answers
from kelm.evaluate.results import Result
from kelm.evaluate.scoring import answer_logprobs, text_logprobs
from kelm.evaluate.tasks import Row, Task
from kelm.library import LLM
from kelm.suggest import did_you_mean

Progress = Callable[[int, int], None]
"""(rows done, rows)"""

ROWS_AT_ONCE = 16
"""Handed to the engine together; rows of a batch don't change one another's results."""


def evaluate(llm: LLM, task: Task, progress: Progress = lambda done, rows: None, *, max_tokens: int = 256) -> Result:
    """Run ``llm`` over ``task``. ``max_tokens`` bounds each answer of a generation, as the model's context does.

    Raises UnsupportedModel when the model can't do tasks of this kind, and InvalidRequest (ContextTooLong ...) with
    the row's line when a row doesn't fit the model.
    """
    limits.EVAL_MAX_TOKENS.check(max_tokens, field="max_tokens")
    _check(llm, task)
    match task.kind:
        case "perplexity":
            return _perplexity(llm, task, progress)
        case "classification":
            return _classification(llm, task, progress)
        case "generation":
            return _generation(llm, task, progress, max_tokens)


def _perplexity(llm: LLM, task: Task, progress: Progress) -> Result:
    logprob, tokens, size_bytes = 0.0, 0, 0
    for rows in _batches(task, progress):
        scored = _named(task, rows, lambda texts: text_logprobs(llm, texts))
        logprob += sum(sum(row) for row in scored)
        tokens += sum(map(len, scored))
        size_bytes += sum(len(str(row.source).encode()) for row in rows)
    if not tokens:
        raise InvalidRequest(f"{task.name}: {llm.name}'s tokenizer makes no token of any of its texts")
    figures = metrics.perplexity(logprob, tokens, size_bytes)
    return Result(
        llm.name, task.name, task.kind, len(task.rows), figures, counts={"tokens": tokens, "bytes": size_bytes}
    )


def _classification(llm: LLM, task: Task, progress: Progress) -> Result:
    classifier = "classify" in llm.info.tasks
    order = llm.info.labels if classifier else task.labels
    given: list[str] = []
    for rows in _batches(task, progress):
        scored = _named(
            task, rows, llm.classify if classifier else lambda texts: answer_logprobs(llm, texts, task.labels)
        )
        given += [max(scores, key=scores.__getitem__) for scores in scored]
    made = metrics.classification([row.target for row in task.rows], given, order)
    figures = {"accuracy": made.accuracy, "macro_f1": made.macro_f1, "micro_f1": made.micro_f1}
    return Result(
        llm.name, task.name, task.kind, len(task.rows), figures, classes=made.classes, confusion=made.confusion
    )


def _generation(llm: LLM, task: Task, progress: Progress, max_tokens: int) -> Result:
    outputs: list[str] = []
    for rows in _batches(task, progress):
        outputs += _named(task, rows, lambda sources: answers(llm, sources, max_tokens))
    figures = metrics.generation(outputs, [row.target for row in task.rows])
    return Result(llm.name, task.name, task.kind, len(task.rows), figures)


def _batches(task: Task, progress: Progress) -> Iterator[Sequence[Row]]:
    for start in range(0, len(task.rows), ROWS_AT_ONCE):
        progress(start, len(task.rows))
        yield task.rows[start : start + ROWS_AT_ONCE]
    progress(len(task.rows), len(task.rows))


def _named(task: Task, rows: Sequence[Row], run: Callable[..., list]) -> list:  # type: ignore[type-arg]
    """``run`` over the rows' sources; when it refuses, the line of the first row that it refuses alone too."""
    try:
        return run([row.source for row in rows])
    except InvalidRequest as error:
        raise _blamed(task, rows, run, error) from None


def _blamed(task: Task, rows: Sequence[Row], run: Callable[..., object], error: KelmError) -> KelmError:
    for row in rows:
        try:
            run([row.source])
        except InvalidRequest as own:
            return type(own)(f"{task.at(row)}: {own.message}", param=own.param)
    return error


def _check(llm: LLM, task: Task) -> None:
    info = llm.info
    if task.kind == "generation" and "generate" not in info.tasks:
        raise UnsupportedModel(f"{_described(llm)}; prompt, reference needs one that generates")
    if task.kind == "perplexity" and info.kind != "decoder":
        raise UnsupportedModel(f"{_described(llm)}; perplexity (rows with text alone) needs a decoder")
    if task.kind == "classification":
        _check_labels(llm, task)


def _check_labels(llm: LLM, task: Task) -> None:
    info = llm.info
    if "classify" in info.tasks:
        if not limits.EVAL_CLASSES.least <= len(info.labels) <= limits.EVAL_CLASSES.most:
            raise UnsupportedModel(
                f"{llm.name} has {len(info.labels)} labels; classification is measured over"
                f" {limits.EVAL_CLASSES.least:.0f} to {limits.EVAL_CLASSES.most:.0f}"
            )
        for row in task.rows:
            if row.target not in info.labels:
                raise InvalidRequest(
                    f"{task.at(row)}: the label {limits.shown(row.target)} is none of {llm.name}'s"
                    f" ({limits.shown(', '.join(info.labels))}){did_you_mean(row.target, info.labels)}",
                    param="label",
                )
    elif info.kind != "decoder":
        raise UnsupportedModel(f"{_described(llm)}; text, label needs a classifier or a decoder")
    elif not limits.EVAL_LABELS.least <= len(task.labels) <= limits.EVAL_LABELS.most:
        raise InvalidRequest(
            f"{task.name}: {len(task.labels)} different labels; a decoder picks the likeliest of"
            f" {limits.EVAL_LABELS.least:.0f} to {limits.EVAL_LABELS.most:.0f}"
        )


def _described(llm: LLM) -> str:
    return f"{llm.name} ({llm.info.architecture}) can {', '.join(llm.info.tasks)}"
