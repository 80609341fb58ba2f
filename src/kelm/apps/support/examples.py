"""The desk's CSV files: texts of customers and what is right for them.

intents.csv       text,label     label: an intent
calibration.csv   text,expect    expect: an intent, ``article:NAME``, or ``none`` (nothing here can answer it)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kelm import limits
from kelm.errors import ConfigError
from kelm.suggest import did_you_mean

ARTICLE, NONE = "article:", "none"


@dataclass(frozen=True, slots=True)
class Example:
    """One row. ``expect`` is the label of intents.csv, or what calibration.csv expects."""

    text: str
    expect: str

    @property
    def intent(self) -> str | None:
        return None if self.article or self.expect == NONE else self.expect

    @property
    def article(self) -> str | None:
        return self.expect.removeprefix(ARTICLE) if self.expect.startswith(ARTICLE) else None


def read_intents(path: Path) -> tuple[Example, ...]:
    """Raises ConfigError: a malformed file, or fewer than two labels."""
    rows = _read(path, "label")
    labels = {example.expect for _, example in rows}
    if len(labels) < 2:
        raise ConfigError(f"{path.name}: a classifier needs at least two labels, got {', '.join(sorted(labels))}")
    return tuple(example for _, example in rows)


def read_calibration(path: Path, intents: Collection[str], articles: Collection[str]) -> tuple[Example, ...]:
    """Raises ConfigError: a malformed file, or a row that expects an intent or an article that there is not."""
    known = [*intents, *(ARTICLE + name for name in articles), NONE]
    for line, example in (rows := _read(path, "expect")):
        if example.expect not in known:
            near = did_you_mean(example.expect, known)
            raise ConfigError(
                f"{path.name}:{line}: {limits.shown(example.expect)} is no intent, no article and not `none`{near}"
            )
    return tuple(example for _, example in rows)


def read_text(path: Path) -> str:
    """A small file of the desk. Raises ConfigError when it is not there, too large or not UTF-8."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(int(limits.SUPPORT_FILE_BYTES.most) + 1)
    except FileNotFoundError:
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise ConfigError(f"{path.name} is missing in {path.parent}{near}") from None
    except OSError as error:
        raise ConfigError(f"{path.name} can't be read: {error.strerror}") from None
    if len(raw) > limits.SUPPORT_FILE_BYTES.most:
        raise ConfigError(f"{path.name}: over the limit of {limits.SUPPORT_FILE_BYTES.most} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None


def _read(path: Path, column: str) -> list[tuple[int, Example]]:
    """(line, row) of every row that isn't blank."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    found: list[tuple[int, Example]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if header != ["text", column]:
            raise ConfigError(
                f"{path.name}: the first line must be text,{column}; got {limits.shown(','.join(header))}"
            )
        for row in reader:
            if any(cell.strip() for cell in row):
                found.append((reader.line_num, _row(row, column, f"{path.name}:{reader.line_num}")))
    except csv.Error as error:
        raise ConfigError(
            f"{path.name}:{reader.line_num}: {error}; put a text with commas into double quotes"
        ) from None
    if not found:
        raise ConfigError(f"{path.name}: no rows under the first line")
    if len(found) > limits.SUPPORT_EXAMPLES.most:
        raise ConfigError(f"{path.name}: {len(found)} rows, the limit is {limits.SUPPORT_EXAMPLES.most}")
    return found


def _row(row: list[str], column: str, at: str) -> Example:
    if len(row) != 2:
        raise ConfigError(f"{at}: {len(row)} cells instead of 2; put a text with commas into double quotes")
    text, expect = (cell.strip() for cell in row)
    if not text or not expect:
        raise ConfigError(f"{at}: {'text' if not text else column} is empty")
    if len(text) > limits.SUPPORT_EXAMPLE_CHARS.most:
        raise ConfigError(f"{at}: text is longer than {limits.SUPPORT_EXAMPLE_CHARS.most} characters")
    return Example(text, expect)
