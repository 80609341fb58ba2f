"""Tickets: what a person has to answer. open (nobody answered yet) -> answered -> closed.

A conversation has at most one that is not closed; handing over again while it is adds nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kelm import limits
from kelm.apps.support.conversations import Message, messages
from kelm.apps.support.database import Connection
from kelm.apps.support.made import Made, Why
from kelm.apps.support.texts import Language
from kelm.errors import InvalidRequest, NotFound, Overloaded

State = Literal["open", "answered", "closed"]
_COLUMNS = (
    "id, conversation, question, why, state, opened, changed, "
    "(SELECT language FROM conversations WHERE conversations.id = conversation), guess"
)


class Ticket(msgspec.Struct, frozen=True):
    """``question`` is the one that led to it, ``guess`` what the desk made of it. Times are Unix time."""

    id: int
    conversation: int
    question: str
    why: Why
    state: State
    opened: float
    changed: float
    language: Language
    """Of the customer's page."""
    guess: Made | None = None
    messages: list[Message] = []
    """The conversation so far; only of a ticket that was asked for by its number."""


def open_(db: Connection, conversation: int, question: str, guess: Made, now_s: float) -> int:
    """The number of the conversation's ticket: a new one, or the one that is not closed yet.

    Raises Overloaded when too many wait.
    """
    held = unfinished(db, conversation)
    if held is not None:
        return held.id
    waiting = int(db.execute("SELECT count(*) FROM tickets WHERE state != 'closed'").fetchone()[0])
    if waiting >= limits.SUPPORT_TICKETS.value:
        raise Overloaded(f"{waiting} questions wait for a person already; try again later")
    row = db.execute(
        "INSERT INTO tickets(conversation, question, why, guess, state, opened, changed) "
        "VALUES(?, ?, ?, ?, 'open', ?, ?)",
        (conversation, question, guess.why, msgspec.json.encode(guess).decode(), now_s, now_s),
    )
    return int(row.lastrowid or 0)


def unfinished(db: Connection, conversation: int) -> Ticket | None:
    """The conversation's ticket that is not closed."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM tickets WHERE conversation = ? AND state != 'closed'", (conversation,)
    ).fetchone()
    return None if row is None else _ticket(row)


def listed(db: Connection, *, closed: bool) -> list[Ticket]:
    """Waiting ones, the longest first; or closed ones, the last first."""
    where, order = ("state = 'closed'", "changed DESC") if closed else ("state != 'closed'", "state = 'answered', id")
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM tickets WHERE {where} ORDER BY {order} LIMIT ?", (int(limits.SUPPORT_LISTED.value),)
    )
    return [_ticket(row) for row in rows]


def read(db: Connection, number: int) -> Ticket:
    """With its conversation. Raises NotFound."""
    row = db.execute(f"SELECT {_COLUMNS} FROM tickets WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise NotFound(f"there is no ticket {number}")
    ticket = _ticket(row)
    return msgspec.structs.replace(ticket, messages=messages(db, ticket.conversation))


def move(db: Connection, number: int, state: State, now_s: float) -> Ticket:
    """To ``state``. Raises NotFound, InvalidRequest for one that is closed."""
    ticket = read(db, number)
    if ticket.state == "closed":
        raise InvalidRequest(f"ticket {number} is closed; the customer's next question opens another")
    db.execute("UPDATE tickets SET state = ?, changed = ? WHERE id = ?", (state, now_s, number))
    return ticket


def _ticket(row: tuple[Any, ...]) -> Ticket:
    guess = msgspec.json.decode(row[8], type=Made) if row[8] else None
    return Ticket(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], guess)
