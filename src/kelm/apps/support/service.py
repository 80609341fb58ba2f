"""What a customer and a person can do: every act is one or two transactions, and nothing is said that isn't stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from kelm import limits
from kelm.apps.support import conversations, tickets
from kelm.apps.support.answering import Answerer, handover
from kelm.apps.support.conversations import Author, Conversation, Message, Vote
from kelm.apps.support.database import Connection, Database
from kelm.apps.support.events import News
from kelm.apps.support.made import Made, Reply, Why
from kelm.apps.support.texts import Language
from kelm.apps.support.tickets import Ticket
from kelm.clock import Clock
from kelm.errors import InvalidRequest, Overloaded

_UNPRINTABLE = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


class State(msgspec.Struct, frozen=True):
    """A customer's page: what was said, and who has the conversation."""

    messages: list[Message]
    ticket: tickets.State | None
    assistant: bool
    """Whether Kelm was there when it was asked last."""


@dataclass
class Service:
    """``session`` is always the digest of a session's token (conversations.digest)."""

    database: Database
    answerer: Answerer
    clock: Clock
    news: News = field(default_factory=News)
    _asking: set[str] = field(default_factory=set)

    async def state(self, session: str, after: int = 0) -> State:
        """Messages with an id past ``after``."""

        def look(db: Connection) -> State:
            found = conversations.find(db, session)
            if found is None:
                return State([], None, self.answerer.doors.up)
            ticket = tickets.unfinished(db, found.id)
            said = conversations.messages(db, found.id, after)
            return State(said, ticket.state if ticket else None, self.answerer.doors.up)

        return await self.database.read(look)

    async def ask(self, session: str, text: str, language: Language) -> None:
        """Store the customer's message, then the reply to it. Once a person has answered, the desk is silent until the
        ticket is closed. Raises InvalidRequest, Overloaded."""
        text = clean(text)
        with self._one_at_a_time(session):
            conversation, silent = await self.database.write(lambda db: self._heard(db, session, text, language))
            self.news.tell(session)
            if silent:
                return
            reply = await self.answerer.answer(text, conversation.pending)
            await self.database.write(lambda db: self._said(db, conversation.id, reply, text))
            self.news.tell(session)

    async def person(self, session: str, language: Language) -> None:
        """The button that asks for a person."""
        await self.database.write(lambda db: self._hand_over(db, session, "asked_for", language))
        self.news.tell(session)

    async def vote(self, session: str, message: int, vote: Vote | None, language: Language) -> None:
        """Raises NotFound. Enough thumbs down hand the conversation over."""

        def work(db: Connection) -> None:
            conversation = conversations.begin(db, session, language, self.clock.wall_s())
            conversations.vote(db, conversation.id, message, vote)
            if conversations.downs(db, conversation.id) >= limits.SUPPORT_DOWNS.value:
                self._hand_over(db, session, "thumbs_down", language)

        await self.database.write(work)
        self.news.tell(session)

    async def tickets(self, *, closed: bool) -> list[Ticket]:
        return await self.database.read(lambda db: tickets.listed(db, closed=closed))

    async def ticket(self, number: int) -> Ticket:
        return await self.database.read(lambda db: tickets.read(db, number))

    async def reply(self, number: int, text: str) -> None:
        """A person's answer; the customer's page shows it at once."""
        text = clean(text)

        def work(db: Connection) -> str:
            ticket = tickets.move(db, number, "answered", self.clock.wall_s())
            conversations.add(db, ticket.conversation, self._message("person", text, Made("person")))
            return conversations.session_of(db, ticket.conversation)

        self.news.tell(await self.database.write(work))

    async def close(self, number: int) -> None:
        """The desk answers again from here on. Raises NotFound."""

        def work(db: Connection) -> str:
            ticket = tickets.move(db, number, "closed", self.clock.wall_s())
            return conversations.session_of(db, ticket.conversation)

        self.news.tell(await self.database.write(work))

    def _heard(self, db: Connection, session: str, text: str, language: Language) -> tuple[Conversation, bool]:
        """The conversation with the customer's message in it, and whether a person has it."""
        conversation = conversations.begin(db, session, language, self.clock.wall_s())
        conversations.add(db, conversation.id, self._message("customer", text))
        ticket = tickets.unfinished(db, conversation.id)
        silent = ticket is not None and conversations.person_spoke(db, conversation.id, ticket.opened)
        if ticket is not None and silent:
            tickets.move(db, ticket.id, "open", self.clock.wall_s())
        return conversation, silent

    def _said(self, db: Connection, conversation: int, reply: Reply, question: str) -> None:
        conversations.add(db, conversation, self._message("desk", reply.text, reply.made))
        conversations.wait_for(db, conversation, reply.pending)
        if reply.made.why is not None:
            tickets.open_(db, conversation, question, reply.made, self.clock.wall_s())

    def _hand_over(self, db: Connection, session: str, why: Why, language: Language) -> None:
        """Nothing while a person has the conversation already."""
        conversation = conversations.begin(db, session, language, self.clock.wall_s())
        if tickets.unfinished(db, conversation.id) is None:
            question = conversations.last_question(db, conversation.id)
            self._said(db, conversation.id, handover(Made("handover"), why, language), question)

    def _message(self, author: Author, text: str, made: Made | None = None) -> Message:
        return Message(0, author, text, self.clock.wall_s(), made)

    @contextmanager
    def _one_at_a_time(self, session: str) -> Iterator[None]:
        if session in self._asking:
            raise Overloaded("the question before this one is still being answered", retry_after_s=1)
        if len(self._asking) >= limits.SUPPORT_ASKING.value:
            raise Overloaded("too many questions at once; try again in a moment", retry_after_s=2)
        self._asking.add(session)
        try:
            yield
        finally:
            self._asking.discard(session)


def clean(text: str) -> str:
    """What is stored of a message: without control characters and blank ends. Raises InvalidRequest."""
    text = text.translate(_UNPRINTABLE).strip()
    most = limits.SUPPORT_MESSAGE_CHARS.most
    if not text or len(text) > most:
        raise InvalidRequest(f"text must have between 1 and {most} characters, got {len(text)}", param="text")
    return text
