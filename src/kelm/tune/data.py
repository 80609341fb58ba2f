"""What a model is taught: examples from a file, all of one kind, which the file tells.

    text,label                        CSV: classification
    {"text": ..., "label": ...}       JSON Lines: classification
    {"messages": [...]}               JSON Lines: chat; the assistant's messages are what is learnt

No torch here: the command line reads the data before it asks for a job, and the job reads it again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kelm import limits
from kelm.errors import InvalidRequest
from kelm.text import rows
from kelm.text.chat import ROLES

Kind = Literal["classification", "chat"]
FIELDS = ("text", "label", "messages")
SHAPES = "text, label | messages"
_JSON = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True, slots=True)
class Example:
    """A text and the label it should get."""

    line: int
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, of which at least one is the assistant's."""

    line: int
    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Data:
    """``examples`` of a classification or ``conversations`` of a chat, in the file's order; the other one is empty.
    ``labels`` sorted; ``repeated``: examples left out because they are there already; ``digest`` of the bytes."""

    name: str
    kind: Kind
    examples: tuple[Example, ...]
    conversations: tuple[Conversation, ...]
    labels: tuple[str, ...]
    repeated: int
    digest: str

    def __len__(self) -> int:
        return len(self.examples) + len(self.conversations)


def read(raw: bytes, name: str) -> Data:
    """The examples in a file's bytes; ``name`` is for errors, and its ending says what it is.

    Raises InvalidRequest, with the line, for what isn't CSV or JSON Lines, mixes kinds, lacks a column, has a row that
    is malformed; for no rows, one label only, a label with one example, a conversation without an answer.
    """
    if len(raw) > limits.JOB_DATA_BYTES.most:
        most = int(limits.JOB_DATA_BYTES.most)
        raise InvalidRequest(f"{name} has {len(raw)} bytes, at most {most} are taken; a part of it teaches as well")
    text = rows.decode(raw, name)
    start = text.lstrip()[:1]
    if not start:
        raise InvalidRequest(f"{name} is empty; {_wanted()}")
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    if name.lower().endswith(_JSON) or (start == "{" and not name.lower().endswith(".csv")):
        return _from_json(text, name, digest)
    return _classification(list(_csv(text, name)), name, digest)


def _csv(text: str, name: str) -> Iterator[Example]:
    for line, row in rows.csv_rows(text, name, ("text", "label")):
        at = f"{name}:{line}"
        yield Example(line, rows.text_of(row, "text", at), rows.label_of(row["label"].strip(), at))


def _from_json(text: str, name: str, digest: str) -> Data:
    if text.lstrip().startswith("["):
        raise InvalidRequest(f"{name} is one JSON list; write its objects one a line (JSON Lines)")
    examples: list[Example] = []
    conversations: list[Conversation] = []
    for line, fields in rows.json_lines(text, name, SHAPES):
        at = f"{name}:{line}"
        if _is_chat(fields, at):
            conversations.append(Conversation(line, _messages(fields["messages"], at)))
        else:
            examples.append(Example(line, rows.text_of(fields, "text", at), rows.label_of(fields["label"], at)))
        if examples and conversations:
            raise InvalidRequest(
                f"{at}: the rows before this one are {'classification' if 'messages' in fields else 'chats'}; "
                "a file holds one kind, so put the others in a file of their own"
            )
    if examples:
        return _classification(examples, name, digest)
    return Data(name, "chat", (), tuple(conversations), (), 0, digest)


def _is_chat(fields: dict[str, Any], at: str) -> bool:
    """Whether the row is a conversation. Raises InvalidRequest when it is neither kind."""
    rows.check_spelling(fields, FIELDS, at)
    found = {name for name in FIELDS if name in fields}
    if found in ({"messages"}, {"text", "label"}):
        return "messages" in found
    lacks = {frozenset({"text"}): "lacks label", frozenset({"label"}): "lacks text"}.get(frozenset(found))
    raise InvalidRequest(f"{at}: the row {lacks or 'has ' + (' and '.join(sorted(found)) or 'none of the fields')}"
                         f"; a row has {SHAPES}")  # fmt: skip


def _messages(value: object, at: str) -> tuple[dict[str, Any], ...]:
    messages = rows.messages_of(value, at)
    for number, message in enumerate(messages):
        role, where = message.get("role"), f"{at}: messages[{number}]"
        if role not in ROLES:
            raise InvalidRequest(f"{where}: role must be one of {', '.join(ROLES)}, got {limits.shown(role)}")
        if role in ("user", "assistant", "system"):
            rows.text_of({"content": None, **message}, "content", where)
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise InvalidRequest(f"{at}: no assistant message answers anything; that is what a chat is tuned on")
    return tuple(messages)


def _classification(examples: list[Example], name: str, digest: str) -> Data:
    unique = {(example.text, example.label): example for example in reversed(examples)}
    kept = sorted(unique.values(), key=lambda example: example.line)
    counts = Counter(example.label for example in kept)
    if not counts:
        raise InvalidRequest(f"{name} has no rows; {_wanted()}")
    if len(counts) < 2:
        raise InvalidRequest(f"{name}: every row has the label {limits.shown(kept[0].label)}; a classifier needs two")
    if len(counts) > limits.EVAL_CLASSES.most:
        raise InvalidRequest(
            f"{name}: {len(counts)} different labels, at most {limits.EVAL_CLASSES.most:.0f} are taken; "
            "is another column the label?"
        )
    alone = sorted(label for label, count in counts.items() if count < 2)
    if alone:
        raise InvalidRequest(
            f"{name}: one example only of {limits.shown(', '.join(alone))}; every label needs two or more, because "
            "some of each are held out to measure: add some, or drop the label"
        )
    return Data(name, "classification", tuple(kept), (), tuple(sorted(counts)), len(examples) - len(kept), digest)


def _wanted() -> str:
    return 'write a CSV with the columns text,label, or JSON Lines with {"text", "label"} or {"messages"} a line'
