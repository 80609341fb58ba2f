"""A result for people: tables for a terminal and a picture (PNG)."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kelm.errors import ConfigError, InvalidRequest
from kelm.evaluate.results import Result
from kelm.store import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "perplexity": "perplexity",
    "byte_perplexity": "perplexity per byte",
    "bits_per_byte": "bits per byte",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "exact_match": "exact match",
    "bleu": "BLEU (0-100)",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}
CELLS_WITH_NUMBERS = 20  # classes up to which a cell of the matrix has room for its number
_CJK_FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "SimHei")


def tables(result: Result) -> list[Group]:
    """The figures, and for a classification the classes and their confusion."""
    counts = "".join(f", {count:,} {name}" for name, count in result.counts.items())
    figures = _table("METRIC", "VALUE")
    for name, value in result.metrics.items():
        figures.add_row(TITLES[name], f"{value:.4f}")
    made = [_titled(f"{result.model} on {result.task}: {result.kind}, n = {result.n}{counts}", figures)]
    if not result.classes:
        return made
    classes = _table("LABEL", "PRECISION", "RECALL", "F1", "N")
    for row in result.classes:
        numbers = (f"{value:.3f}" for value in (row.precision, row.recall, row.f1))
        classes.add_row(Text(row.label), *numbers, str(row.support))
    confusion = _table("RIGHT \\ GIVEN", *(row.label for row in result.classes))
    for row, cells in zip(result.classes, result.confusion, strict=True):
        confusion.add_row(Text(row.label), *map(str, cells))
    return [*made, _titled("per class", classes), _titled("confusion", confusion)]


def check_out(path: Path) -> None:
    """Raise now what ``write_png`` would raise after the model has run: ConfigError, InvalidRequest."""
    if path.suffix.lower() != ".png":
        raise InvalidRequest(f"{path} doesn't end in .png; the picture is a PNG")
    if not path.parent.is_dir() or path.is_dir():
        raise InvalidRequest(f"{path} can't be written: {'it is' if path.is_dir() else 'there is no such'} folder")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("a picture needs matplotlib, which is not installed: pip install 'kelm[eval]'") from None


def write_png(result: Result, path: Path) -> None:
    """The figures as bars, and a classification's confusion matrix beside them. The file is whole or absent.

    Raises InvalidRequest when it can't be written.
    """
    try:
        atomic.write_file(path, _png(result))
    except OSError as error:
        raise InvalidRequest(f"{path} can't be written: {error.strerror}") from None


def _png(result: Result) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    side = 3.5 + 0.3 * min(len(result.classes), 40)
    size = (6 + side, max(4.2, side)) if result.classes else (7, 1.8 + 0.55 * len(result.metrics))
    # A label is text, never a formula; a letter that no font here has becomes a box and is no reason to warn.
    with matplotlib.rc_context({"text.parse_math": False, "font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=size, layout="constrained")
        widths = [5.0, side] if result.classes else [1.0]
        axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        figure.suptitle(f"{result.model} on {result.task} (n = {result.n})", fontsize=12)
        _bars(axes[0], result)
        if result.classes:
            _matrix(axes[1], result)
        figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _bars(axes: Axes, result: Result) -> None:
    """One bar a figure, as a share of its scale; figures without a top (perplexity) share the largest's."""
    names = list(result.metrics)
    top = 1.0 if result.kind != "perplexity" else max(result.metrics.values())
    lengths = [value / (100.0 if name == "bleu" else top) for name, value in result.metrics.items()]
    bars = axes.barh([TITLES[name] for name in names], lengths, color="#4477aa", height=0.6)
    axes.bar_label(bars, [f"{value:.3f}" for value in result.metrics.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _matrix(axes: Axes, result: Result) -> None:
    """Colours are shares of a row, so that a rare class is as easy to read as a frequent one."""
    cells = result.confusion
    shares = [[cell / max(1, sum(row)) for cell in row] for row in cells]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [_short(row.label) for row in result.classes]
    places = range(len(labels))
    size = 10 if len(labels) <= CELLS_WITH_NUMBERS else 6
    axes.set_xticks(places, labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(places, [f"{label} ({row.support})" for label, row in zip(labels, result.classes, strict=True)])
    axes.tick_params(axis="y", labelsize=size)
    axes.set_xlabel("given")
    axes.set_ylabel("right (n)")
    axes.figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    if len(labels) > CELLS_WITH_NUMBERS:
        return
    for y, x in ((y, x) for y in places for x in places):
        colour = "white" if shares[y][x] > 0.5 else "black"
        axes.text(x, y, str(cells[y][x]), ha="center", va="center", color=colour)


def _fonts() -> list[str]:
    """matplotlib's own, then what this machine has for Chinese and Japanese."""
    from matplotlib import font_manager

    here = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _CJK_FONTS if name in here)]


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="italic"), table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    return table
