"""Rows of data files that people bring: JSON Lines and CSV, and the checks of their fields. Errors name file and line.

Text is UTF-8, with or without a byte order mark; a UTF-16 file that has one (a spreadsheet's "Unicode text") is read
too. Blank lines are skipped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.suggest import near

_DELIMITERS = ",;\t"


def decode(raw: bytes, name: str, line: int = 1) -> str:
    """The text of a file that has ``raw`` from ``line`` on. Raises InvalidRequest, with the line, when it is neither
    UTF-8 nor marked UTF-16."""
    marked = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        at = f"{name}:{line + before.count(10)}"
        byte = len(before) - before.rfind(b"\n")
        raise InvalidRequest(f"{at}: not UTF-8 at byte {byte}; save the file as UTF-8") from None


def parse_object(text: str, at: str, shapes: str) -> dict[str, Any]:
    """One line of JSON Lines. ``shapes``: the fields that a row may have, for errors."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{at}: not JSON ({error}); write one JSON object a line") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{at}: {limits.shown(value)} is no JSON object; a row is one with the fields {shapes}")
    return value


def json_lines(text: str, name: str, shapes: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of every line that isn't blank. Raises InvalidRequest."""
    for line, written in enumerate(text.split("\n"), 1):
        if written.strip():
            yield line, parse_object(written, f"{name}:{line}", shapes)


def csv_rows(text: str, name: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, {column: cell}) of every row that isn't blank, of the ``columns`` wanted, whatever others there are.

    The first row names the columns; commas, semicolons or tabs part them. Raises InvalidRequest: a column is missing, a
    row has too few or too many cells, a quote never ends.
    """
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            at, line = f"{name}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(cells, at, columns)
                continue
            if len(cells) != len(header):
                raise InvalidRequest(
                    f"{at}: the row has {len(cells)} cells, the first one names {len(header)}; a text with "
                    f"{_named(delimiter)} or line ends in it needs quotes around it"
                )
            row = dict(zip(header, cells, strict=True))
            yield int(at.rpartition(":")[2]), {column: row[column] for column in columns}
    except csv.Error as error:
        raise InvalidRequest(f"{name}:{line}: not CSV ({error}); is a quote never closed?") from None


def _header(cells: Sequence[str], at: str, columns: Sequence[str]) -> list[str]:
    header = [cell.strip().casefold() for cell in cells]
    for column in columns:
        if header.count(column) > 1:
            raise InvalidRequest(f"{at}: two columns are named {column}; rename one")
        if column not in header:
            meant = [cell for cell in near(column, header) if cell not in columns]
            told = f"{meant[0]!r} looks like it: rename it" if meant else f"got {limits.shown(', '.join(cells))}"
            raise InvalidRequest(
                f"{at}: no column is named {column}; {told}. The first line names the columns: {','.join(columns)}",
                param=column,
            )
    return header


def _named(delimiter: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]


def check_spelling(names: Iterable[str], known: Collection[str], at: str) -> None:
    """Raise InvalidRequest when one of ``names`` looks like a known field that isn't there."""
    names = list(names)
    for name in names:
        meant = [field for field in near(name, known) if field not in names]
        if name not in known and meant:
            raise InvalidRequest(f"{at}: {limits.shown(name)} looks like {meant[0]}; rename it, or drop it")


def text_of(fields: Mapping[str, Any], name: str, at: str) -> str:
    """Text that isn't blank and that UTF-8 can carry."""
    value = fields[name]
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{at}: {name} must be text that isn't blank, got {limits.shown(value)}", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{at}: {name} has half of a surrogate pair, which is no character", param=name) from None
    return value


def label_of(value: object, at: str) -> str:
    """Labels are names; whole numbers are taken as written."""
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > limits.STRING_BYTES.most:
        raise InvalidRequest(f"{at}: label must be a name or a whole number, got {limits.shown(value)}", param="label")
    return name


def messages_of(value: object, at: str) -> list[dict[str, Any]]:
    """Only the outline: what a message may hold is the chat template's business."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise InvalidRequest(f"{at}: messages must be a list of objects with role and content", param="messages")
    return value
