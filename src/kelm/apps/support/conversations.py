"""Conversations and their messages in the database. Functions of a connection, to be run in one transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kelm import limits
from kelm.apps.support.database import Connection
from kelm.apps.support.made import Made, Pending
from kelm.apps.support.texts import Language
from kelm.errors import InvalidRequest, NotFound

Author = Literal["customer", "desk", "person"]
Vote = Literal["up", "down"]


class Message(msgspec.Struct, frozen=True):
    """``sent`` is Unix time; ``made`` of the desk's own messages."""

    id: int
    author: Author
    text: str
    sent: float
    made: Made | None = None
    vote: Vote | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    id: int
    pending: Pending | None


def digest(token: str) -> str:
    """What is known of a session's token here: who reads the database can't speak for anybody."""
    return hashlib.sha256(token.encode()).hexdigest()


def find(db: Connection, session: str) -> Conversation | None:
    """The conversation of a session (its digest)."""
    row = db.execute("SELECT id, pending FROM conversations WHERE session = ?", (session,)).fetchone()
    if row is None:
        return None
    return Conversation(row[0], msgspec.json.decode(row[1], type=Pending) if row[1] else None)


def begin(db: Connection, session: str, language: Language, now_s: float) -> Conversation:
    """The session's conversation, made if there is none; the oldest idle ones go when there are too many."""
    found = find(db, session)
    if found is not None:
        return found
    statement = "INSERT INTO conversations(session, language, started) VALUES(?, ?, ?)"
    made = Conversation(int(db.execute(statement, (session, language, now_s)).lastrowid or 0), None)
    _drop_oldest(db)
    return made


def _drop_oldest(db: Connection) -> None:
    over = int(db.execute("SELECT count(*) FROM conversations").fetchone()[0]) - int(limits.SUPPORT_CONVERSATIONS.value)
    if over > 0:
        db.execute(
            "DELETE FROM conversations WHERE id IN (SELECT id FROM conversations WHERE NOT EXISTS "
            "(SELECT 1 FROM tickets WHERE conversation = conversations.id AND state != 'closed') ORDER BY id LIMIT ?)",
            (over,),
        )


def add(db: Connection, conversation: int, message: Message) -> Message:
    """The message with its id. Raises InvalidRequest when the conversation is full."""
    count = int(db.execute("SELECT count(*) FROM messages WHERE conversation = ?", (conversation,)).fetchone()[0])
    # Whatever is said last needs an answer, and a person must be able to give one.
    room = int(limits.SUPPORT_MESSAGES.value) + (2 if message.author != "customer" else 0)
    if count >= room:
        raise InvalidRequest(f"this conversation has {count} messages, the limit is {room}; begin a new one")
    row = db.execute(
        "INSERT INTO messages(conversation, author, text, made, sent) VALUES(?, ?, ?, ?, ?)",
        (conversation, message.author, message.text, _encoded(message.made), message.sent),
    )
    return msgspec.structs.replace(message, id=int(row.lastrowid or 0))


def wait_for(db: Connection, conversation: int, pending: Pending | None) -> None:
    """What the next message may fill."""
    db.execute("UPDATE conversations SET pending = ? WHERE id = ?", (_encoded(pending), conversation))


def messages(db: Connection, conversation: int, after: int = 0) -> list[Message]:
    """In order, those with an id past ``after``."""
    rows = db.execute(
        "SELECT id, author, text, sent, made, vote FROM messages WHERE conversation = ? AND id > ? ORDER BY id",
        (conversation, after),
    )
    return [_message(row) for row in rows]


def vote(db: Connection, conversation: int, message: int, given: Vote | None) -> None:
    """Raises NotFound for a message that is not the desk's own in this conversation."""
    changed = db.execute(
        "UPDATE messages SET vote = ? WHERE id = ? AND conversation = ? AND author = 'desk'",
        (given, message, conversation),
    )
    if changed.rowcount != 1:
        raise NotFound(f"there is no answer {message} in this conversation")


def downs(db: Connection, conversation: int) -> int:
    """Thumbs down on answers since the last hand-over."""
    return int(
        db.execute(
            "SELECT count(*) FROM messages WHERE conversation = ?1 AND vote = 'down' AND sent > "
            "coalesce((SELECT max(opened) FROM tickets WHERE conversation = ?1), 0)",
            (conversation,),
        ).fetchone()[0]
    )


def last_question(db: Connection, conversation: int) -> str:
    row = db.execute(
        "SELECT text FROM messages WHERE conversation = ? AND author = 'customer' ORDER BY id DESC LIMIT 1",
        (conversation,),
    ).fetchone()
    return "" if row is None else str(row[0])


def person_spoke(db: Connection, conversation: int, since_s: float) -> bool:
    """Whether a person has answered since then."""
    statement = "SELECT 1 FROM messages WHERE conversation = ? AND author = 'person' AND sent >= ? LIMIT 1"
    return db.execute(statement, (conversation, since_s)).fetchone() is not None


def session_of(db: Connection, conversation: int) -> str:
    return str(db.execute("SELECT session FROM conversations WHERE id = ?", (conversation,)).fetchone()[0])


def _message(row: tuple[Any, ...]) -> Message:
    made = msgspec.json.decode(row[4], type=Made) if row[4] else None
    return Message(row[0], row[1], row[2], row[3], made, row[5])


def _encoded(value: msgspec.Struct | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
