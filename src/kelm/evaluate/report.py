"""A result for people: tables for a terminal and a picture (PNG)."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kelm.errors import ConfigError, InvalidRequest
from kelm.evaluate.results import Result
from kelm.evaluate.titles import TITLES
from kelm.store import atomic


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
    """Draw ``result`` (picture.py) into ``path``, which is whole or absent. Raises InvalidRequest when it can't be."""
    from kelm.evaluate import picture

    try:
        atomic.write_file(path, picture.png(result))
    except OSError as error:
        raise InvalidRequest(f"{path} can't be written: {error.strerror}") from None


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="italic"), table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    return table
