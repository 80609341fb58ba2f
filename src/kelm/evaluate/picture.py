"""A result as a PNG: the figures as bars, and a classification's confusion matrix beside them."""

from __future__ import annotations

import io

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kelm.evaluate.results import Result
from kelm.evaluate.titles import TITLES

MOST_CLASSES = 40
"""Drawn in the matrix: the most frequent."""
CELLS_WITH_NUMBERS = 20
"""Classes up to which a cell has room for its number."""
_BAR_IN = 0.75
_CJK_FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "SimHei")


def png(result: Result) -> bytes:
    side = 3.5 + 0.3 * min(len(result.classes), MOST_CLASSES)
    bars = max(1.8 + 0.55 * len(result.metrics), side if result.classes else 0)
    # A label is text, never a formula.
    with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts()}):
        figure = Figure(figsize=(6 + side if result.classes else 7, bars), layout="constrained")
        figure.suptitle(f"{result.model} on {result.task} (n = {result.n})", fontsize=12)
        if result.classes:
            left, right = figure.subplots(1, 2, width_ratios=(5, side))
            draw_bars(left, result, bars)
            _draw_matrix(right, result)
        else:
            draw_bars(figure.subplots(), result, bars)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def draw_bars(axes: Axes, result: Result, height_in: float) -> None:
    """One bar a figure, as a share of its scale; figures without a top (perplexity) share the largest's."""
    names = list(result.metrics)
    top = 1.0 if result.kind != "perplexity" else max(result.metrics.values())
    lengths = [value / (100.0 if name == "bleu" else top) for name, value in result.metrics.items()]
    bars = axes.barh([TITLES[name] for name in names], lengths, color="#4477aa", height=0.6)
    axes.bar_label(bars, [f"{value:.3f}" for value in result.metrics.values()], padding=4)
    axes.set_ylim(max(len(names), height_in / _BAR_IN) - 0.5, -0.5)
    axes.set_xlim(0, 1.18)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_matrix(axes: Axes, result: Result) -> None:
    """Colours are shares of a row, so that a rare class is as easy to read as a frequent one."""
    drawn = sorted(range(len(result.classes)), key=lambda i: -result.classes[i].support)[:MOST_CLASSES]
    drawn.sort()
    shares = [[result.confusion[i][j] / max(1, sum(result.confusion[i])) for j in drawn] for i in drawn]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [_drawable(result.classes[i].label, i + 1) for i in drawn]
    places = range(len(drawn))
    size = 10 if len(drawn) <= CELLS_WITH_NUMBERS else 6
    axes.set_xticks(places, labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
    counted = [f"{label} ({result.classes[i].support})" for label, i in zip(labels, drawn, strict=True)]
    axes.set_yticks(places, counted, fontsize=size)
    axes.set_xlabel("given")
    axes.set_ylabel("right (n)")
    if len(drawn) < len(result.classes):
        axes.set_title(f"the {len(drawn)} most frequent of {len(result.classes)} labels", fontsize=10)
    axes.figure.colorbar(image, ax=axes, label="share of the row", fraction=0.046, pad=0.03)
    if len(drawn) <= CELLS_WITH_NUMBERS:
        _number(axes, result, shares)


def _number(axes: Axes, result: Result, shares: list[list[float]]) -> None:
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            colour = "white" if share > 0.5 else "black"
            axes.text(x, y, str(result.confusion[y][x]), ha="center", va="center", color=colour)


def fonts() -> list[str]:
    """matplotlib's own, then what this machine has for Chinese and Japanese."""
    here = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _CJK_FONTS if name in here)]


def _drawable(label: str, number: int) -> str:
    """The label, cut to the room there is; where no font has its letters, its row in the table (#3)."""
    faces = [font_manager.get_font(font_manager.findfont(name)) for name in fonts()]
    if not all(any(face.get_char_index(ord(letter)) for face in faces) for letter in label):
        return f"#{number}"
    return label if len(label) <= 24 else f"{label[:23]}…"
