"""Task files: JSON Lines, one row a line, all of one kind, which the rows' fields tell.

    {"text": ...}                               perplexity
    {"text": ..., "label": ...}                 classification
    {"prompt": ..., "reference": ...}           generation, the prompt as it stands
    {"messages": [...], "reference": ...}       generation through the chat template

Other fields (an id, a source) are left alone, unless they look like a misspelling of one of these. Every error names
the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.text import rows

Kind = Literal["perplexity", "classification", "generation"]

KINDS: dict[frozenset[str], Kind] = {
    frozenset({"text"}): "perplexity",
    frozenset({"text", "label"}): "classification",
    frozenset({"prompt", "reference"}): "generation",
    frozenset({"messages", "reference"}): "generation",
}
FIELDS = ("text", "label", "prompt", "messages", "reference")
SHAPES = "text | text, label | prompt, reference | messages, reference"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what the model gets (``source``), and what is right (``target``; empty for a perplexity)."""

    line: int
    source: str | list[dict[str, Any]]
    target: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A task file's rows. ``labels``: those of the whole file in the order in which they come, whatever the limit."""

    name: str
    kind: Kind
    rows: tuple[Row, ...]
    labels: tuple[str, ...] = ()

    def at(self, row: Row) -> str:
        return f"{self.name}:{row.line}"


def read(path: Path, limit: int | None = None, name: str | None = None) -> Task:
    """The first ``limit`` rows of a task file (the whole of which is checked). ``name``: what to call it.

    Raises InvalidRequest, with the line, for a file that is empty, too long, not JSON Lines or of mixed kinds, and for
    a row that lacks a field or has it malformed.
    """
    if limit is not None:
        limits.EVAL_ROWS.check(limit, field="limit")
    name = name or path.name
    shape: frozenset[str] = frozenset()
    found_rows: list[Row] = []
    for line, fields in _objects(path, name):
        at = f"{name}:{line}"
        found = _shape(fields, at)
        shape = shape or found
        if found != shape:
            raise InvalidRequest(
                f"{at}: this row has {_listed(found)}, the rows before it {_listed(shape)}; a task file holds one kind,"
                " so put the others in a file of their own"
            )
        found_rows.append(_row(line, fields, shape, at))
        if len(found_rows) > limits.EVAL_ROWS.most:
            raise InvalidRequest(f"{at}: more than {limits.EVAL_ROWS.most:.0f} rows; split the file")
    if not found_rows:
        raise InvalidRequest(f"{name}: no rows; write one JSON object a line, with the fields {SHAPES}")
    labels = tuple(dict.fromkeys(row.target for row in found_rows)) if "label" in shape else ()
    return Task(name, KINDS[shape], tuple(found_rows[:limit]), labels)


def _objects(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that isn't blank."""
    longest = int(limits.EVAL_LINE_BYTES.most)
    try:
        with path.open("rb") as stream:
            line = 0
            while raw := stream.readline(longest + 1):
                line += 1
                if len(raw) > longest:
                    raise InvalidRequest(f"{name}:{line}: the line is longer than {longest} bytes")
                if raw.strip():
                    yield line, rows.parse_object(rows.decode(raw, name, line), f"{name}:{line}", SHAPES)
    except OSError as error:
        raise InvalidRequest(f"{name} can't be read: {error.strerror}") from None


def _shape(fields: dict[str, Any], at: str) -> frozenset[str]:
    """The row's known fields, if they make a row."""
    found = frozenset(fields) & frozenset(FIELDS)
    rows.check_spelling(fields, FIELDS, at)
    if found in KINDS:
        return found
    wanted = [shape for shape in KINDS if found and found < shape]
    lacks = f"lacks {' or '.join(_listed(shape - found) for shape in wanted)}" if wanted else f"has {_listed(found)}"
    raise InvalidRequest(f"{at}: the row {lacks}; a row has {SHAPES}")


def _row(line: int, fields: dict[str, Any], shape: frozenset[str], at: str) -> Row:
    if "messages" in shape:
        source: str | list[dict[str, Any]] = rows.messages_of(fields["messages"], at)
    else:
        source = rows.text_of(fields, "text" if "text" in shape else "prompt", at)
    if "label" in shape:
        return Row(line, source, rows.label_of(fields["label"], at))
    return Row(line, source, rows.text_of(fields, "reference", at) if "reference" in shape else "")


def _listed(names: frozenset[str]) -> str:
    return " and ".join(name for name in FIELDS if name in names) or "none of these fields"
