"""`kelm tune` as a job: data -> split -> a learner -> the loop -> an adapter -> a version of ``base@variant``.

Every stage is a pure function of data, settings and threads, so that a job that was killed anywhere goes on to the
same version; and it adds no second one: a version knows the job that made it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kelm.clock import SYSTEM
from kelm.context import Context
from kelm.errors import ModelNotFound
from kelm.store.versions import Version
from kelm.tune import adapter, report, split
from kelm.tune.base import Base, open_base
from kelm.tune.chat import Chats
from kelm.tune.classifier import Classifier
from kelm.tune.data import Data, read
from kelm.tune.loop import Hooks, Loop, State
from kelm.tune.methods import Plan, plan
from kelm.wire.jobs import Tune

_TELL_S = 0.2
"""Progress is told that often."""


@dataclass(frozen=True)
class Lesson:
    """What is taught, before torch has done anything."""

    base: Base
    data: Data
    plan: Plan
    taught: int
    held_out: int


def run(spec: Tune, context: Context) -> dict[str, Any]:
    """The result: model, version, evaluation, classes (of a classification), examples, epochs.

    Raises InvalidRequest (data, with the line), UnsupportedModel, ModelNotFound, OutOfMemory, StoreError, Cancelled.
    """
    torch.set_num_threads(context.threads)
    torch.use_deterministic_algorithms(True)
    data = read(context.data.read_bytes(), spec.file)
    base = open_base(context.store, spec.base)
    base.check(data)
    _quiet()
    lesson, learner = _learner(spec, base, data, context)
    context.leave_if_stopping()
    before = None if isinstance(learner, Classifier) else learner.measure().loss
    loop = Loop(learner, lesson.plan, context.checkpoints, SYSTEM)
    if loop.state.step:
        context.line(f"goes on from step {loop.state.step} of at most {lesson.plan.steps}")
    loop.run(_hooks(lesson, context))
    context.leave_if_stopping()
    made = adapter.write(learner.model, context.folder / "adapter")
    adapter.round_as_served(learner.model, base.dtype)
    evaluation, classes = _evaluation(learner, before, lesson)
    report.write_curve(context.folder, loop.state.curve)
    version = _add(spec, context, lesson, made, learner.overrides(made), evaluation)
    shutil.rmtree(made)  # the store has it
    state = loop.state
    context.progress(lesson.plan.steps, lesson.plan.steps, f"{len(state.curve)} epochs", **_told(evaluation))
    context.line(f"{base.name}@{spec.variant} has version {version.number}, published")
    return {
        "model": f"{base.name}@{spec.variant}",
        "version": version.number,
        "kind": data.kind,
        "evaluation": evaluation,
        "classes": classes,
        "examples": {"taught": lesson.taught, "held_out": lesson.held_out, "cut": learner.cut},
        "epochs": len(state.curve),
        "best_epoch": state.best,
    }


def _learner(spec: Tune, base: Base, data: Data, context: Context) -> tuple[Lesson, Classifier | Chats]:
    if data.kind == "classification":
        parts = split.split_examples(data.examples, spec.seed)
        made = plan(data.kind, spec, len(parts[0]), base.width)
        _begin(base, data, made, context)
        classifier = Classifier(base, data, parts, made)
        lesson = Lesson(base, data, made, len(classifier), len(parts[1]))
        _tell(lesson, classifier.cut, "texts", context)
        return lesson, classifier
    chats = split.split_chats(data.conversations, spec.seed)
    answers = sum(message["role"] == "assistant" for chat in chats[0] for message in chat.messages[1:])
    made = plan(data.kind, spec, answers, base.width)
    _begin(base, data, made, context)
    learner = Chats(base, data, chats, made)
    lesson = Lesson(base, data, made, len(learner), len(chats[1]))
    _tell(lesson, learner.cut, "conversations", context)
    return lesson, learner


def _begin(base: Base, data: Data, made: Plan, context: Context) -> None:
    context.line(f"{data.name}: {data.kind}, {len(data)} examples, {data.digest[:19]}")
    if data.repeated:
        context.line(f"{data.repeated} examples are there more than once and are taught once")
    base.check_memory(made, context.memory_bytes)
    context.progress(0, made.steps, "reading the model")


def _tell(lesson: Lesson, cut: int, noun: str, context: Context) -> None:
    made = lesson.plan
    if cut:
        context.line(f"{cut} {noun} were longer than {lesson.base.most_tokens} tokens and are cut to them")
    if not lesson.held_out:
        context.line(f"fewer than {split.LEAST_CHATS} conversations: all are taught, none is held out to measure")
    context.line(
        f"LoRA of rank {made.rank} on {lesson.base.name}: {lesson.taught} taught, {lesson.held_out} held out, at most "
        f"{made.epochs} epochs of {made.steps_per_epoch} steps, rate {made.learning_rate:g} after {made.warmup_steps} "
        f"steps of warm-up, seed {made.seed}, {torch.get_num_threads()} threads"
    )


def _hooks(lesson: Lesson, context: Context) -> Hooks:
    made, told_s = lesson.plan, 0.0
    measured = "held out" if lesson.held_out else "then"

    def after_step(state: State) -> None:
        nonlocal told_s
        now_s = SYSTEM.monotonic_s()
        if now_s - told_s >= _TELL_S:
            told_s = now_s
            context.progress(state.step, made.steps, f"epoch {len(state.curve) + 1}", **_figures(state))

    def after_epoch(state: State) -> None:
        row = state.curve[-1]
        figures = "".join(f", {name} {value:.3f}" for name, value in row.figures.items())
        kept = ", the best so far" if state.best == row.epoch else ""
        context.line(f"epoch {row.epoch}: loss {row.train_loss:.4f}, {measured} {row.heldout_loss:.4f}{figures}{kept}")
        context.progress(state.step, made.steps, f"epoch {row.epoch}", **_figures(state))
        report.write_csv(context.folder, state.curve)

    return Hooks(after_step, after_epoch, context.stopping)


def _figures(state: State) -> dict[str, float]:
    recent = state.losses[-20:]
    row = state.curve[-1] if state.curve else None
    loss = sum(recent) / len(recent) if recent else row.train_loss if row else 0.0
    return {"loss": round(loss, 4)} | ({} if row is None else {"held_out": round(row.heldout_loss, 4), **row.figures})


def _told(evaluation: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in evaluation.items() if name != "held_out"}


def _evaluation(
    learner: Classifier | Chats, before: float | None, lesson: Lesson
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Of the weights as they are served: the figures, and a row for each class."""
    if isinstance(learner, Classifier):
        loss, figures = learner.report()
        made = {"accuracy": figures.accuracy, "macro_f1": figures.macro_f1, "heldout_loss": loss}
        return {**made, "held_out": lesson.held_out}, [asdict(row) for row in figures.classes]
    assert before is not None
    name = "heldout_loss" if learner.holds_out else "taught_loss"
    figures_of_chat = {f"{name}_before": before, name: learner.measure().loss, "held_out": lesson.held_out}
    return figures_of_chat, []


def _add(
    spec: Tune, context: Context, lesson: Lesson, made: Path, overrides: Mapping[str, Path], evaluation: dict[str, Any]
) -> Version:
    """The version that this job has made, added unless an earlier process of it did."""
    store, base = context.store, lesson.base
    try:
        mine = [
            v for v in store.history(f"{base.name}@{spec.variant}").versions if v.settings.get("job") == context.pid
        ]
    except ModelNotFound:
        mine = []
    if mine:
        return mine[-1]
    return store.add_version(
        str(base.manifest.name),
        spec.variant,
        layer=made,
        overrides=overrides,
        parent=0,
        author="kelm tune",
        evaluation=evaluation,
        data_digest=lesson.data.digest,
        settings={"job": context.pid, "method": "lora", "threads": context.threads, **asdict(lesson.plan)},
        note=f"{lesson.data.kind} on {lesson.data.name}"[:200],
    )


def _quiet() -> None:
    """The libraries' own bars and advice would drown the log."""
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
