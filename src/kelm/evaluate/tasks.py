"""Task files: JSON Lines, one row a line, all of one kind, which the rows' fields tell.

    {"text": ...}                               perplexity
    {"text": ..., "label": ...}                 classification
    {"prompt": ..., "reference": ...}           generation, the prompt as it stands
    {"messages": [...], "reference": ...}       generation through the chat template

Other fields (an id, a source) are left alone, unless they look like a misspelling of one of these. Every error names
the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.suggest import near

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
    rows: list[Row] = []
    for line, fields in _objects(path, name):
        at = f"{name}:{line}"
        found = _shape(fields, at)
        shape = shape or found
        if found != shape:
            raise InvalidRequest(
                f"{at}: this row has {_listed(found)}, the rows before it {_listed(shape)}; a task file holds one kind,"
                " so put the others in a file of their own"
            )
        rows.append(_row(line, fields, shape, at))
        if len(rows) > limits.EVAL_ROWS.most:
            raise InvalidRequest(f"{at}: more than {limits.EVAL_ROWS.most:.0f} rows; split the file")
    if not rows:
        raise InvalidRequest(f"{name}: no rows; write one JSON object a line, with the fields {SHAPES}")
    labels = tuple(dict.fromkeys(row.target for row in rows)) if "label" in shape else ()
    return Task(name, KINDS[shape], tuple(rows[:limit]), labels)


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
                    yield line, _object(raw, f"{name}:{line}")
    except OSError as error:
        raise InvalidRequest(f"{name} can't be read: {error.strerror}") from None


def _object(raw: bytes, at: str) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{at}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{at}: not JSON ({error}); write one JSON object a line") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{at}: {limits.shown(value)} is no JSON object; a row is one with the fields {SHAPES}")
    return value


def _shape(fields: dict[str, Any], at: str) -> frozenset[str]:
    """The row's known fields, if they make a row."""
    found = frozenset(fields) & frozenset(FIELDS)
    for name in fields:
        meant = [field for field in near(name, FIELDS) if field not in found]
        if name not in found and meant:
            raise InvalidRequest(f"{at}: {limits.shown(name)} looks like {meant[0]}; rename it, or drop it")
    if found in KINDS:
        return found
    wanted = [shape for shape in KINDS if found and found < shape]
    lacks = f"lacks {' or '.join(_listed(shape - found) for shape in wanted)}" if wanted else f"has {_listed(found)}"
    raise InvalidRequest(f"{at}: the row {lacks}; a row has {SHAPES}")


def _row(line: int, fields: dict[str, Any], shape: frozenset[str], at: str) -> Row:
    source = _messages(fields["messages"], at) if "messages" in shape else _text(fields, "prompt", "text", at=at)
    if "label" in shape:
        return Row(line, source, _label(fields["label"], at))
    return Row(line, source, _text(fields, "reference", at=at) if "reference" in shape else "")


def _text(fields: dict[str, Any], *names: str, at: str) -> str:
    """The one of ``names`` that the row has: text that isn't blank."""
    name = next(name for name in names if name in fields)
    value = fields[name]
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{at}: {name} must be text that isn't blank, got {limits.shown(value)}", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{at}: {name} has half of a surrogate pair, which is no character", param=name) from None
    return value


def _label(value: object, at: str) -> str:
    """Labels are names; whole numbers are taken as written."""
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > limits.STRING_BYTES.most:
        raise InvalidRequest(f"{at}: label must be a name or a whole number, got {limits.shown(value)}", param="label")
    return name


def _messages(value: object, at: str) -> list[dict[str, Any]]:
    """Only the outline: what a message may hold is the chat template's business."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise InvalidRequest(f"{at}: messages must be a list of objects with role and content", param="messages")
    return value


def _listed(names: frozenset[str]) -> str:
    return " and ".join(name for name in FIELDS if name in names) or "none of these fields"
