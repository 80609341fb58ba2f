"""What customers and persons can do, through the routes of the real application; only the models are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kelm import limits
from kelm.apps.support import conversations, tickets
from kelm.apps.support.conversations import Message
from kelm.apps.support.made import Made
from kelm.apps.support.rates import Rate
from kelm.apps.support.service import Service, clean
from kelm.clock import ManualClock
from kelm.errors import InvalidRequest, Overloaded, Unavailable
from support_kit import KEY, ScriptedDoors, client_of, make_app, make_service

Clients = tuple[httpx.AsyncClient, httpx.AsyncClient]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def doors() -> ScriptedDoors:
    return ScriptedDoors({"where": ("status", 0.9), "fetch": ("visit", 0.9), "human": ("person", 0.9)})


@pytest.fixture
async def service(tmp_path: Path, doors: ScriptedDoors, clock: ManualClock) -> AsyncIterator[Service]:
    made = await make_service(tmp_path, doors, clock)
    yield made
    made.database.close()


@pytest.fixture
async def clients(service: Service) -> AsyncIterator[Clients]:
    """(a customer who has opened the page, a person who has entered the key)."""
    app = make_app(service)
    async with client_of(app) as customer, client_of(app) as person:
        assert (await customer.get("/")).status_code == 200
        assert (await person.post("/desk/api/enter", json={"key": KEY})).status_code == 200
        yield customer, person


async def say(customer: httpx.AsyncClient, text: str) -> dict[str, Any]:
    response = await customer.post("/api/messages", json={"text": text})
    assert response.status_code == 200, response.text
    return response.json()


async def waiting(person: httpx.AsyncClient, closed: bool = False) -> list[dict[str, Any]]:
    return (await person.get(f"/desk/api/tickets?closed={int(closed)}")).json()["tickets"]


async def test_a_conversation_is_what_is_stored(clients: Clients) -> None:
    customer, _ = clients
    await say(customer, "fetch it")
    await say(customer, "AB-1234 in Bern")
    state = (await customer.get("/api/conversation")).json()
    assert [(m["author"], m["text"]) for m in state["messages"]] == [
        ("customer", "fetch it"), ("desk", "Which order?"),
        ("customer", "AB-1234 in Bern"), ("desk", "1234 can be fetched in Bern."),
    ]  # fmt: skip
    assert state["ticket"] is None and state["assistant"] is True
    assert state["messages"][3]["made"]["route"] == "template"


async def test_handed_over_answered_and_closed(clients: Clients, service: Service, clock: ManualClock) -> None:
    customer, person = clients
    state = await say(customer, "Who won the match?")
    assert state["ticket"] == "open"
    (ticket,) = await waiting(person)
    assert (ticket["question"], ticket["why"], ticket["state"]) == ("Who won the match?", "nothing_found", "open")
    whole = (await person.get(f"/desk/api/tickets/{ticket['id']}")).json()
    assert [m["author"] for m in whole["messages"]] == ["customer", "desk"]
    assert whole["language"] == "en"
    assert whole["guess"]["intent"] == "other" and whole["guess"]["passage_confidence"] < 0.4

    clock.advance(60)
    await person.post(f"/desk/api/tickets/{ticket['id']}/reply", json={"text": "We don't know either."})
    state = (await customer.get("/api/conversation")).json()
    assert state["ticket"] == "answered"
    assert [state["messages"][-1][key] for key in ("author", "text")] == ["person", "We don't know either."]

    state = await say(customer, "Where is AB-1234?")
    assert state["messages"][-1]["author"] == "customer", "a person has the conversation"
    assert state["ticket"] == "open", "and has to look at it again"
    assert (await waiting(person))[0]["state"] == "open"

    await person.post(f"/desk/api/tickets/{ticket['id']}/close", json={})
    assert await waiting(person) == []
    assert [row["id"] for row in await waiting(person, closed=True)] == [ticket["id"]]
    clock.advance(60)
    state = await say(customer, "Where is AB-1234?")
    assert state["messages"][-1]["text"] == "Order 1234 is on its way.", "the desk answers again"
    assert state["ticket"] is None


async def test_until_a_person_answers_the_desk_goes_on(clients: Clients) -> None:
    customer, person = clients
    await say(customer, "Who won the match?")
    state = await say(customer, "Where is AB-1234?")
    assert state["messages"][-1]["text"] == "Order 1234 is on its way."
    await say(customer, "And who lost the match?")
    assert len(await waiting(person)) == 1, "one ticket for one conversation"


async def test_the_button_asks_for_a_person_once(clients: Clients) -> None:
    customer, person = clients
    await say(customer, "Where is AB-1234?")
    for _ in range(2):
        state = (await customer.post("/api/person", json={})).json()
    assert len(state["messages"]) == 3
    (ticket,) = await waiting(person)
    assert (ticket["question"], ticket["why"]) == ("Where is AB-1234?", "asked_for")


async def test_two_thumbs_down_hand_over(clients: Clients, clock: ManualClock) -> None:
    customer, person = clients
    answers = []
    for number in (1, 2):
        answers.append((await say(customer, f"Where is AB-000{number}?"))["messages"][-1]["id"])
        clock.advance(1)
    for vote in ("down", None, "up", "down"):
        state = (await customer.post("/api/votes", json={"message": answers[0], "vote": vote})).json()
        assert state["messages"][1].get("vote") == vote
    assert await waiting(person) == [], "one is not enough, however often"
    state = (await customer.post("/api/votes", json={"message": answers[1], "vote": "down"})).json()
    assert state["messages"][-1]["made"]["why"] == "thumbs_down"
    (ticket,) = await waiting(person)
    assert (ticket["question"], ticket["why"]) == ("Where is AB-0002?", "thumbs_down")

    clock.advance(1)
    await person.post(f"/desk/api/tickets/{ticket['id']}/close", json={})
    clock.advance(1)
    third = (await say(customer, "Where is AB-0003?"))["messages"][-1]["id"]
    await customer.post("/api/votes", json={"message": third, "vote": "down"})
    assert await waiting(person) == [], "it is counted anew after a hand-over"


async def test_votes_are_for_the_desks_answers_of_ones_own(clients: Clients) -> None:
    customer, person = clients
    await say(customer, "Where is AB-1234?")
    for message in (1, 99):
        response = await customer.post("/api/votes", json={"message": message, "vote": "up"})
        assert response.status_code == 404
    await person.get("/")
    assert (await person.post("/api/votes", json={"message": 2, "vote": "up"})).status_code == 404


async def test_the_daemon_is_away(clients: Clients, doors: ScriptedDoors) -> None:
    customer, person = clients
    doors.down, doors.up = Unavailable("nobody"), False
    state = await say(customer, "Where is AB-1234?")
    assert state["assistant"] is False
    assert "can't be reached" in state["messages"][-1]["text"]
    assert [ticket["why"] for ticket in await waiting(person)] == ["no_daemon"]


async def test_a_new_conversation_is_another_session(clients: Clients) -> None:
    customer, _ = clients
    await say(customer, "Where is AB-1234?")
    assert (await customer.post("/api/conversation/new", json={})).status_code == 200
    assert (await customer.get("/api/conversation")).json()["messages"] == []


async def read(stream: httpx.Response, count: int) -> list[str]:
    found: list[str] = []
    async for line in stream.aiter_lines():
        found.append(line)
        if sum(each.startswith("data") for each in found) == count:
            break
    return found


async def test_news_reach_every_stream_and_end(service: Service) -> None:
    with service.news.listening("a") as one, service.news.listening("a") as two, service.news.listening("b") as other:
        service.news.tell("a")
        assert one.is_set() and two.is_set() and not other.is_set()
        service.news.end()
        assert other.is_set() and service.news.over
    service.news.tell("a")


async def test_streams_of_a_session_are_bounded(service: Service) -> None:
    most = int(limits.SUPPORT_STREAMS.value)
    held = [service.news.listening("a") for _ in range(most)]
    for each in held:
        each.__enter__()
    with pytest.raises(Overloaded, match=f"{most} streams"):
        service.news.check("a")
    service.news.check("b")
    held[0].__exit__(None, None, None)
    service.news.check("a")


@pytest.mark.parametrize("text", ["", "   \n ", "\x00\x1b", "x" * 2001])
def test_messages_have_bounds(text: str) -> None:
    with pytest.raises(InvalidRequest, match="between 1 and 2000 characters"):
        clean(text)


def test_messages_are_cleaned() -> None:
    assert clean("  a\x00b\x1b[31m\nc\u009f ") == "ab[31m\nc"
    assert clean("x" * 2000 + "  ") == "x" * 2000


async def test_one_question_at_a_time(service: Service, doors: ScriptedDoors) -> None:
    go = asyncio.Event()
    real = doors.classify

    async def slow(model: str, texts: list[str]) -> Any:
        await go.wait()
        return await real(model, texts)

    doors.classify = slow  # type: ignore[method-assign, assignment]
    first = asyncio.create_task(service.ask("a", "Where is AB-1?", "en"))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded, match="still being answered"):
        await service.ask("a", "And this?", "en")
    others = range(int(limits.SUPPORT_ASKING.value) - 1)
    more = [asyncio.create_task(service.ask(f"s{n}", "where", "en")) for n in others]
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded, match="too many questions"):
        await service.ask("b", "One more?", "en")
    go.set()
    await asyncio.gather(first, *more)
    await service.ask("b", "One more?", "en")
    assert (await service.state("a")).messages[0].text == "Where is AB-1?"


async def test_a_conversation_has_an_end(service: Service) -> None:
    most = int(limits.SUPPORT_MESSAGES.value)

    def fill(db: Any) -> int:
        found = conversations.begin(db, "a", "en", 1.0)
        for number in range(most):
            conversations.add(db, found.id, Message(0, "customer", str(number), 1.0))
        return found.id

    conversation = await service.database.write(fill)
    with pytest.raises(InvalidRequest, match=f"has {most} messages"):
        await service.ask("a", "one more", "en")
    assert len((await service.state("a")).messages) == most
    await service.database.write(lambda db: conversations.add(db, conversation, Message(0, "person", "bye", 1.0)))


async def test_old_conversations_go_without_open_tickets(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    few = limits.Bound("conversations", 1, 10, 3, "", "")
    monkeypatch.setattr(limits, "SUPPORT_CONVERSATIONS", few)
    await service.person("first", "en")
    for name in ("b", "c", "d", "e"):
        await service.ask(name, "Where is AB-1234?", "en")
    kept = [name for name in ("first", "b", "c", "d", "e") if (await service.state(name)).messages]
    assert kept == ["first", "d", "e"]


async def test_tickets_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUPPORT_TICKETS", limits.Bound("tickets", 1, 10, 2, "", ""))
    await service.person("a", "en")
    await service.person("b", "en")
    with pytest.raises(Overloaded, match="2 questions wait"):
        await service.person("c", "en")
    assert (await service.state("c")).messages == [], "nothing is said that isn't so"


async def test_a_closed_ticket_stays_closed(service: Service) -> None:
    await service.person("a", "en")
    await service.close(1)
    for act in (service.close(1), service.reply(1, "x")):
        with pytest.raises(InvalidRequest, match="ticket 1 is closed"):
            await act
    assert (await service.database.read(lambda db: tickets.read(db, 1))).state == "closed"


def test_rates(clock: ManualClock) -> None:
    rate = Rate(limits.Bound("messages", 1, 600, 20, "messages a minute", ""), clock)
    for _ in range(20):
        rate.spend("a")
    with pytest.raises(Overloaded, match="more than 20 messages a minute; wait 3 seconds") as caught:
        rate.spend("a")
    assert caught.value.retry_after_s == pytest.approx(3)
    rate.spend("b")
    clock.advance(3.01)
    rate.spend("a")
    with pytest.raises(Overloaded):
        rate.spend("a")
    clock.advance(10_000)
    for _ in range(20):
        rate.spend("a")
    with pytest.raises(Overloaded):
        rate.spend("a")


async def test_a_session_is_slowed_down(clients: Clients, clock: ManualClock) -> None:
    customer, _ = clients
    for number in range(int(limits.SUPPORT_RATE.value)):
        await say(customer, f"Where is AB-{1000 + number}?")
    response = await customer.post("/api/messages", json={"text": "Where?"})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    clock.advance(3.1)
    await say(customer, "Where is AB-1234?")


def test_made_is_small_where_there_is_nothing_to_say() -> None:
    import msgspec

    assert msgspec.json.encode(Made("person")) == b'{"route":"person"}'
