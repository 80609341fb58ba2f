"""What is taught: the kind comes from the file, a bad file is refused with its line and what to do, and the held-out
part is a pure function of the examples."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.tune.data import Conversation, Data, Example, read
from kelm.tune.split import LEAST_CHATS, split_chats, split_examples

GOOD = "text,label\nhello,a\ngood day,a\nbye,b\nfarewell,b\n"
TURN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def pairs(data: Data) -> list[tuple[int, str, str]]:
    return [(example.line, example.text, example.label) for example in data.examples]


def test_a_csv_of_texts_and_labels() -> None:
    data = read(GOOD.encode(), "x.csv")
    assert (data.kind, data.labels, len(data)) == ("classification", ("a", "b"), 4)
    assert pairs(data)[0] == (2, "hello", "a") and not data.conversations


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (GOOD.encode("utf-8-sig"), "bom.csv"),
        (GOOD.encode("utf-16"), "unicode_text.csv"),
        (GOOD.replace(",", ";").encode(), "semicolons.csv"),
        (GOOD.replace(",", "\t").encode(), "tabs.tsv"),
        (GOOD.replace("\n", "\r\n").encode(), "windows.csv"),
        (GOOD.replace("text,label", " Text , LABEL ").encode(), "spelling.csv"),
        (("\n,\n" + GOOD + "\n , \n\n").encode(), "blank_rows.csv"),
        (GOOD.encode(), "no_ending"),
        (lines(*({"text": t, "label": label} for t, label in (("hello", "a"), ("good day", "a"), ("bye", "b"),
                                                             ("farewell", "b")))), "x.jsonl"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_same_examples_in_other_clothes(raw: bytes, name: str) -> None:
    assert [pair[1:] for pair in pairs(read(raw, name))] == [pair[1:] for pair in pairs(read(GOOD.encode(), "x.csv"))]


def test_quotes_columns_and_lines() -> None:
    raw = 'id,label,text\n7,a,"two\nlines, ""quoted"""\n8,a,x\n9,1,y\n10,1,z\n'
    assert pairs(read(raw.encode(), "x.csv"))[:2] == [(2, 'two\nlines, "quoted"', "a"), (4, "x", "a")]
    numbered = [{"text": text, "label": label} for text, label in zip("xyzw", (1, 1, 2, 2), strict=True)]
    assert read(lines(*numbered), "x.jsonl").labels == ("1", "2")


def test_examples_that_are_there_twice_are_taught_once() -> None:
    data = read((GOOD + "hello,a\nhello,b\n").encode(), "x.csv")
    assert data.repeated == 1 and len(data) == 5 and [pair[0] for pair in pairs(data)] == [2, 3, 4, 5, 7]


def test_conversations() -> None:
    data = read(lines({"messages": TURN}, {"messages": [*TURN, *TURN], "id": 3}), "x.jsonl")
    assert (data.kind, len(data), data.labels) == ("chat", 2, ()) and data.conversations[1].line == 2


A = {"text": "x", "label": "a"}
CHAT = {"messages": TURN}
BAD: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "x.csv", r"x.csv is empty; write a CSV with the columns text,label"),
    "blank": (b"\n \n", "x.csv", r"x.csv is empty"),
    "no_rows": (b"text,label\n\n", "x.csv", r"x.csv has no rows"),
    "no_labels": (b"text\nhello\n", "x.csv", r"x.csv:1: no column is named label; got 'text'"),
    "misspelt_column": (b"text,lable\nhello,a\n", "x.csv", r":1: no column is named label; 'lable' looks like it"),
    "no_header": (b"hello,a\nbye,b\n", "x.csv", r":1: no column is named text.*first line names the columns: text,lab"),
    "two_columns": (b"text,label,label\na,b,c\n", "x.csv", r"two columns are named label"),
    "comma": (GOOD.encode() + b"well, hello,a\n", "x.csv", r"x.csv:6: the row has 3 cells.*commas.*needs quotes"),
    "open_quote": (GOOD.encode() + b'"hello,a\n', "x.csv", r"x.csv:6: not CSV .*quote never closed"),
    "long_cell": (GOOD.encode() + b"x" * 200_000 + b",a\n", "x.csv", r"x.csv:6: not CSV \(field larger"),
    "blank_text": (GOOD.encode() + b" ,a\n", "x.csv", r"x.csv:6: text must be text that isn't blank"),
    "blank_label": (GOOD.encode() + b"hi,\n", "x.csv", r"x.csv:6: label must be a name"),
    "latin": (GOOD.encode() + b"caf\xe9,a\n", "x.csv", r"x.csv:6: not UTF-8 at byte 4; save the file as UTF-8"),
    "one_label": (b"text,label\nx,a\ny,a\n", "x.csv", r"every row has the label 'a'; a classifier needs two"),
    "lonely": (GOOD.encode() + b"hm,c\n", "x.csv", r"one example only of 'c'; every label needs two"),
    "ids_as_labels": (b"text,label\n" + b"".join(b"t%d,l%d\n" % (i, i) for i in range(3000)), "x.csv",
                      r"3000 different labels, at most 2048.*another column"),
    "json_list": (b'[{"text": "x", "label": "a"}]', "x.json", r"one JSON list; write its objects one a line"),
    "not_json": (lines(A) + b"text,label\n", "x.jsonl", r"x.jsonl:2: not JSON"),
    "csv_named_json": (GOOD.encode(), "x.jsonl", r"x.jsonl:1: not JSON"),
    "json_named_csv": (lines(A, A), "x.csv", r"x.csv:1: no column is named text"),
    "mixed": (lines(CHAT, A), "x.jsonl", r":2: the rows before this one are chats; a file holds one kind"),
    "mixed_too": (lines(A, CHAT), "x.jsonl", r":2: the rows before this one are classification"),
    "both": (lines({**A, **CHAT}), "x.jsonl", r":1: the row has label and messages and text"),
    "no_label": (lines({"text": "x"}), "x.jsonl", r":1: the row lacks label; a row has text, label \| messages"),
    "nothing": (lines({"prompt": "x", "completion": "y"}), "x.jsonl", r":1: the row has none of the fields"),
    "misspelt": (lines({"text": "x", "lable": "a"}), "x.jsonl", r":1: 'lable' looks like label; rename it"),
    "misspelt_chat": (lines({"mesages": TURN}), "x.jsonl", r":1: 'mesages' looks like messages"),
    "chat_text": (lines({"messages": "hi"}), "x.jsonl", r":1: messages must be a list of objects"),
    "role": (lines({"messages": [{"role": "bot", "content": "x"}]}), "x.jsonl", r":1: messages\[0\]: role must be one"),
    "content": (lines({"messages": [TURN[0], {"role": "assistant", "content": " "}]}), "x.jsonl",
                r":1: messages\[1\]: content must be text"),
    "no_answer": (lines({"messages": TURN[:1]}), "x.jsonl", r":1: no assistant message answers anything"),
    "answer_first": (lines({"messages": TURN[1:]}), "x.jsonl", r":1: no assistant message answers anything"),
    "surrogate": (b'{"text": "\\ud800", "label": "a"}\n', "x.jsonl", r":1: text has half of a surrogate pair"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_say_where_and_what_to_do(name: str) -> None:
    raw, file, words = BAD[name]
    with pytest.raises(InvalidRequest, match=words) as caught:
        read(raw, file)
    assert len(caught.value.message) < 400


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOB_DATA_BYTES", dataclasses.replace(limits.JOB_DATA_BYTES, most=20))
    with pytest.raises(InvalidRequest, match="at most 20 are taken"):
        read(GOOD.encode(), "x.csv")


def examples(*counts: int) -> list[Example]:
    made = [(f"text {label} {i}", f"label {label}") for label, count in enumerate(counts) for i in range(count)]
    return [Example(line, text, label) for line, (text, label) in enumerate(made, 2)]


def test_a_fifth_of_each_label_is_held_out_and_never_all() -> None:
    taught, held = split_examples(examples(2, 3, 10, 101), seed=1)
    assert Counter(e.label for e in held) == {"label 0": 1, "label 1": 1, "label 2": 2, "label 3": 20}
    assert Counter(e.label for e in taught) == {"label 0": 1, "label 1": 2, "label 2": 8, "label 3": 81}
    assert not {e.text for e in taught} & {e.text for e in held}


def test_the_split_follows_from_texts_and_seed_alone() -> None:
    rows = examples(20, 20)
    moved = [Example(line, e.text, e.label) for line, e in enumerate(reversed(rows), 2)]
    first = {e.text for e in split_examples(rows, seed=1)[1]}
    assert first == {e.text for e in split_examples(moved, seed=1)[1]}
    assert first != {e.text for e in split_examples(rows, seed=2)[1]}


def test_of_few_conversations_all_are_taught() -> None:
    def chats(count: int) -> list[Conversation]:
        return [Conversation(i, ({"role": "user", "content": str(i)}, TURN[1])) for i in range(count)]

    assert split_chats(chats(LEAST_CHATS - 1), 1)[1] == []
    taught, held = split_chats(chats(40), 1)
    assert (len(taught), len(held)) == (36, 4) and split_chats(chats(40), 1) == (taught, held)
