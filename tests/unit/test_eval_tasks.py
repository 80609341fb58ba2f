"""Task files: the kind comes from the fields, and every bad file is refused with its line and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval_kit import task_file
from kelm import limits
from kelm.errors import InvalidRequest
from kelm.evaluate import read

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = [
    ({"text": "one"}, "perplexity"),
    ({"text": "one", "label": "a"}, "classification"),
    ({"prompt": "one", "reference": "two"}, "generation"),
    ({"messages": MESSAGES, "reference": "two", "id": 7}, "generation"),
]


@pytest.mark.parametrize(("row", "kind"), GOOD)
def test_the_kind_comes_from_the_fields(tmp_path: Path, row: dict[str, object], kind: str) -> None:
    task = read(task_file(tmp_path, [row, row]))
    assert (task.kind, len(task.rows), task.name) == (kind, 2, "task.jsonl")


def test_lines_are_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x", "label": 1}\n\n  \n{"text": "y", "label": "b"}')
    task = read(path)
    assert [(row.line, row.source, row.target) for row in task.rows] == [(1, "x", "1"), (4, "y", "b")]


def test_a_limit_takes_rows_and_leaves_the_labels(tmp_path: Path) -> None:
    path = task_file(tmp_path, [{"text": "x", "label": label} for label in "bab"])
    task = read(path, limit=1)
    assert (len(task.rows), task.labels) == (1, ("b", "a"))
    with pytest.raises(InvalidRequest, match="limit must be between 1"):
        read(path, limit=0)


A, B = '{"text": "x", "label": "a"}\n', '{"text": "x"}\n'
BAD = {
    "empty": ("", r"task.jsonl: no rows; write one JSON object a line"),
    "blank": ("\n \n", r"no rows"),
    "not_json": (A + "text,label\n", r"task.jsonl:2: not JSON"),
    "deep": ("[" * 100_000, r":1: not JSON"),
    "list": ("[1]\n", r":1: .* is no JSON object"),
    "no_field": ('{"a": 1}\n', r":1: the row has none of these fields; a row has text"),
    "missing_label_later": (A + B, r":2: this row has text, the rows before it text and label.*file of their own"),
    "misspelt_label": ('{"text": "x", "lable": "a"}\n', r":1: 'lable' looks like label; rename it"),
    "label_alone": ('{"label": "a"}\n', r":1: the row lacks text; a row has"),
    "no_reference": ('{"prompt": "a"}\n', r":1: the row lacks reference"),
    "reference_alone": ('{"reference": "a"}\n', r":1: the row lacks prompt or messages"),
    "all_at_once": ('{"text": "x", "prompt": "y", "reference": "z"}\n', r":1: the row has text and prompt and ref"),
    "mixed": (A + '{"prompt": "x", "reference": "y"}\n', r":2: this row has prompt and reference, the rows before"),
    "null_label": ('{"text": "x", "label": null}\n', r":1: label must be a name or a whole number, got None"),
    "bool_label": ('{"text": "x", "label": true}\n', r":1: label must be"),
    "list_label": ('{"text": "x", "label": ["a"]}\n', r":1: label must be"),
    "escape_in_label": ('{"text": "x", "label": "\\u001b[2J"}\n', r":1: label must be"),
    "text_is_a_number": ('{"text": 3}\n', r":1: text must be text that isn't blank, got 3"),
    "blank_text": ('{"text": "  "}\n', r":1: text must be text that isn't blank"),
    "surrogate": ('{"text": "\\ud800"}\n', r":1: text has half of a surrogate pair"),
    "no_messages": ('{"messages": [], "reference": "x"}\n', r":1: messages must be a list of objects"),
    "messages_are_text": ('{"messages": ["hi"], "reference": "x"}\n', r":1: messages must be"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRequest, match=message):
        read(path)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_bytes(A.encode() + b'{"text": "caf\xe9", "label": "a"}\n')
    with pytest.raises(InvalidRequest, match=r":2: not UTF-8 at byte 14"):
        read(path)
    with pytest.raises(InvalidRequest, match=r"nowhere\.jsonl can't be read: No such file"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(InvalidRequest, match="can't be read: Is a directory"):
        read(tmp_path)


def test_a_long_line_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    with path.open("wb") as stream:
        stream.truncate(int(limits.EVAL_LINE_BYTES.most) + 2)
    with pytest.raises(InvalidRequest, match=r":1: the line is longer than"):
        read(path)
    path.write_text(json.dumps({"text": "x" * 1000}))
    assert read(path).rows[0].line == 1
