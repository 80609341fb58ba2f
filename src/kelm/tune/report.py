"""The learning curve as files in a job's folder: CSV always, a picture where matplotlib is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from kelm.store.atomic import write_file
from kelm.tune.loop import Row


def write_csv(folder: Path, curve: Sequence[Row]) -> None:
    """curve.csv, one row an epoch."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    extra = list(curve[0].figures) if curve else []
    writer.writerow(["epoch", "step", "learning_rate", "train_loss", "heldout_loss", *extra])
    for row in curve:
        numbers = [row.learning_rate, row.train_loss, row.heldout_loss, *row.figures.values()]
        writer.writerow([row.epoch, row.step, *(f"{number:.6g}" for number in numbers)])
    write_file(folder / "curve.csv", out.getvalue().encode())


def write_curve(folder: Path, curve: Sequence[Row]) -> None:
    """curve.csv and, with matplotlib, curve.png."""
    write_csv(folder, curve)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [row.epoch for row in curve]
    axes.plot(epochs, [row.train_loss for row in curve], label="taught", color="#4477aa")
    axes.plot(epochs, [row.heldout_loss for row in curve], label="held out", color="#ee6677")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(bottom=0)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_file(folder / "curve.png", stream.getvalue())
