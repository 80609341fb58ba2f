"""What a compression cost and gained, as a PNG: disk, memory and perplexity, before and after."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kelm.evaluate.picture import fonts
from kelm.store.compression import Compression, Side

_COLOURS = ("#bbbbbb", "#4477aa")
_WHEN = ("before", "after")
_MIB = 1 << 20


def png(name: str, record: Compression) -> bytes:
    """Bars start at zero, so that their lengths can be compared; what was not measured has none."""
    with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts()}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(f"{record.source} -> {name}: {record.method}", fontsize=11, wrap=True)
        disk, memory, perplexity = figure.subplots(1, 3)
        sides = (record.before, record.after)
        _bars(disk, "on disk (MiB)", sides, [side.size_bytes / _MIB for side in sides])
        _bars(memory, "in memory (MiB)", sides, [_mib(side.weight_bytes) for side in sides])
        _bars(perplexity, "perplexity", sides, [side.perplexity for side in sides])
        if record.text is not None:
            perplexity.set_xlabel(f"on {_short(record.text)}", fontsize=8)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _bars(axes: Axes, title: str, sides: tuple[Side, Side], values: list[float | None]) -> None:
    labels = [f"{when}\n{side.precision}\n{side.layers} layers" for when, side in zip(_WHEN, sides, strict=True)]
    bars = axes.bar(labels, [value or 0.0 for value in values], color=_COLOURS, width=0.6)
    axes.bar_label(bars, ["not measured" if value is None else f"{value:.4g}" for value in values], padding=3)
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.15)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / _MIB


def _short(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:47]}…"
