"""One picture for each model: every kind of work a panel, a bar for each contender, whiskers from least to most."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.record import Row, Side
from benchmarks.workloads import WORKLOADS

COLORS = {"Kelm": "#1b6e53", "Kelm executor": "#6db79a", "Kelm server": "#1b6e53"}
PEERS = {
    "llama.cpp": "#b5651d",
    "llama.cpp, passive": "#d3a06a",
    "llama.cpp server": "#b5651d",
    "llama.cpp server, passive": "#d3a06a",
    "OpenVINO GenAI": "#3b5b92",
    "vLLM": "#8a6bb1",
    "vLLM server": "#8a6bb1",
}
OTHER = "#999999"


def draw(rows: list[Row], folder: Path) -> list[str]:
    """Names of the pictures, without ``.png``."""
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if any(side.values for side in row.sides):
            by_model[row.model].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for model, some in by_model.items():
        _draw_model(model, some, folder / f"benchmarks-{model}.png")
    return [f"benchmarks-{model}" for model in by_model]


def _draw_model(model: str, rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    height = sum(max(len(row.sides) for row in rows[n * columns : (n + 1) * columns]) for n in range(lines))
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(6.4 * columns, 0.42 * height + 1.1 * lines + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for axis, row in zip(axes.flat, rows, strict=False):
        _draw_row(axis, row)
    figure.suptitle(f"{model}: {rows[0].machine.processor}, {rows[0].sides[0].facts.threads} threads")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _draw_row(axis, row: Row) -> None:  # type: ignore[no-untyped-def]
    sides = [side for side in row.sides if side.values]
    middles = [median(side.values) for side in sides]
    places = range(len(sides))
    spreads = [
        [middle - min(side.values) for side, middle in zip(sides, middles, strict=True)],
        [max(side.values) - middle for side, middle in zip(sides, middles, strict=True)],
    ]
    whiskers = {"ecolor": "#333333", "elinewidth": 1, "capsize": 3}
    axis.barh(places, middles, xerr=spreads, color=[_color(side) for side in sides], error_kw=whiskers, height=0.66)
    most = max(max(side.values) for side in sides)
    for place, side, middle in zip(places, sides, middles, strict=True):
        text = f"{middle:,.2f}" if row.unit == "s" else f"{middle:,.1f}" if middle < 100 else f"{middle:,.0f}"
        axis.text(max(side.values) + 0.02 * most, place, text, va="center", fontsize=9)
    axis.set_yticks(places, [side.facts.label for side in sides])
    axis.invert_yaxis()
    axis.set_xlim(0, most * 1.17)
    axis.set_xlabel("s (less is better)" if row.unit == "s" else row.unit)
    axis.set_title(f"{row.precision}: {WORKLOADS[row.workload].title}", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _color(side: Side) -> str:
    return (COLORS if side.facts.ours else PEERS).get(side.facts.name, OTHER)
