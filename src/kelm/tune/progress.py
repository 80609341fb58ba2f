"""What a person sees while a model is trained: a bar with loss, learning rate and speed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from kelm.tune.checkpoint import Point

SMOOTHING = 0.98


class View:
    """A live line on a terminal; on anything else a plain line every ``plain_every`` steps."""

    def __init__(self, console: Console, steps: int, *, plain_every: int = 50) -> None:
        self._console, self._steps, self._plain_every = console, steps, plain_every
        self._loss: float | None = None
        self._bar = RichProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  lr {task.fields[rate]:.2e}  {task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, loss=0.0, rate=0.0, speed=0.0)

    def __enter__(self) -> View:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, point: Point) -> None:
        old = point.loss if self._loss is None else self._loss
        self._loss = SMOOTHING * old + (1 - SMOOTHING) * point.loss
        shown = {"loss": self._loss, "rate": point.learning_rate, "speed": point.tokens_per_s}
        self._bar.update(self._task, completed=point.step, **shown)  # type: ignore[arg-type]
        if not self._console.is_terminal and point.step % self._plain_every == 0:
            self._console.print(
                f"step {point.step}/{self._steps}  loss {self._loss:.4f}  lr {point.learning_rate:.2e}"
                f"  {point.tokens_per_s:,.0f} tokens/s",
                highlight=False,
            )


def write_curve(path: Path, curve: Sequence[Point]) -> None:
    """The loss curve as CSV, one row a step."""
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["step", "loss", "learning_rate", "tokens_per_s"])
        writer.writerows([p.step, f"{p.loss:.6f}", f"{p.learning_rate:.6e}", f"{p.tokens_per_s:.1f}"] for p in curve)
