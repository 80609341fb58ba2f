"""The door loses no request when replicas die, hang, refuse or come back. Replicas are scripted; the rest is real."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from replica_kit import House, Script, house, words

from kelm import limits

SEED = 7


def bound(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    monkeypatch.setattr(limits, name, replace(getattr(limits, name), default=value))


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not in time")


@pytest.mark.parametrize("after", [0, 1, 5, 9])
async def test_a_stream_goes_on_where_its_replica_died(tmp_path: Path, after: int) -> None:
    async with house(tmp_path) as home:
        first, second = home.order(prompt="x")
        home.script(first).die_after = after
        text, ids, error = await home.stream(prompt="x", seed=SEED)
        assert (text, error) == ("".join(words(SEED)), None)
        assert len(set(ids)) == 1, "one stream has one id, whoever answers"
        assert len(home.script(first).asked) == len(home.script(second).asked) == 1
        assert home.fleet.members[second].taken_over == 1
        assert all(member.active == 0 for member in home.fleet.members.values())


async def test_a_request_without_a_seed_gets_one_and_keeps_it(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        first, second = home.order(prompt="x")
        home.script(first).die_after = 4
        text, _, _ = await home.stream(prompt="x")
        (asked,), (again,) = home.script(first).asked, home.script(second).asked
        assert asked == again and text == "".join(words(asked["seed"]))
        await home.stream(prompt="x")
        assert home.script(second).asked[1]["seed"] != asked["seed"]


async def test_it_moves_as_often_as_it_takes_while_it_gets_on(tmp_path: Path) -> None:
    async with house(tmp_path, 6) as home:
        names = home.order(prompt="x")
        for place, name in enumerate(names[:-1]):
            home.script(name).die_after = 2 * place + 2
        assert (await home.stream(prompt="x", seed=SEED))[0] == "".join(words(SEED))


async def test_a_request_that_kills_whoever_takes_it_ends(tmp_path: Path) -> None:
    async with house(tmp_path, 6) as home:
        names = home.order(prompt="x")
        for name in names:
            home.script(name).die_after = 3 if name == names[0] else 0
        text, _, error = await home.stream(prompt="x", seed=SEED)
        assert error == "worker_failed" and "".join(words(SEED)).startswith(text)
        tried = sum(len(home.script(name).asked) for name in names)
        assert tried <= 2 * limits.REPLICA_TRIES.value


async def test_whole_answers_are_asked_for_again(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        first, second = home.order(prompt="x")
        home.script(first).die_after = 0
        answer = await home.complete(prompt="x", seed=SEED)
        assert answer.json()["choices"][0]["text"] == "".join(words(SEED))
        assert answer.headers["x-kelm-replica"] == second


async def test_a_stream_waits_for_a_replica_and_a_new_request_does_not(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        for replica in home.replicas.values():
            replica.script.die_after = 5
        reading = asyncio.create_task(home.stream(prompt="x", seed=SEED))
        await until(lambda: not any(member.up for member in home.fleet.members.values()))
        refused = await home.complete(prompt="x")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert (await home.client.get(f"{home.url}/ready")).status_code == 503
        assert not reading.done()
        back = home.order(prompt="x")[1]
        home.replicas[back].script = Script()
        await home.up(back)
        assert (await reading)[0] == "".join(words(SEED))
        assert (await home.client.get(f"{home.url}/ready")).status_code == 200


async def test_a_stream_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, "REPLICA_WAIT_S", 0.2)
    async with house(tmp_path) as home:
        for replica in home.replicas.values():
            replica.script.die_after = 5
        text, _, error = await home.stream(prompt="x", seed=SEED)
        assert error in ("unavailable", "worker_failed") and "".join(words(SEED)).startswith(text)


async def test_a_replica_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPLICA_LOOK_S", "REPLICA_ANSWER_S"):
        bound(monkeypatch, name, 0.05)
    async with house(tmp_path, look=True) as home:
        first, _ = home.order(prompt="x")
        home.script(first).hang_after = 3
        home.script(first).silent = True
        assert (await home.stream(prompt="x", seed=SEED))[0] == "".join(words(SEED))
        assert not home.fleet.members[first].up
        home.script(first).silent = False
        await until(lambda: home.fleet.members[first].up)


async def test_one_look_in_vain_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(monkeypatch, "REPLICA_LOOK_S", 0.01)
    bound(monkeypatch, "REPLICA_ANSWER_S", 0.05)
    async with house(tmp_path, look=True) as home:
        member = home.fleet.members["replica-0"]
        home.script("replica-0").silent = True
        await until(lambda: member.misses == 1)
        assert member.up
        await until(lambda: not member.up)
        assert member.misses >= limits.REPLICA_MISSES.value


async def test_what_is_being_ended_hands_its_streams_on(tmp_path: Path) -> None:
    """A daemon that drains tells its streams so, in an event."""
    async with house(tmp_path) as home:
        home.script(home.order(prompt="x")[0]).error_after = (4, "unavailable")
        assert (await home.stream(prompt="x", seed=SEED))[0] == "".join(words(SEED))


async def test_an_error_of_the_request_itself_is_the_clients(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        first, second = home.order(prompt="x")
        home.script(first).error_after = (4, "worker_failed")
        assert (await home.stream(prompt="x", seed=SEED))[2] == "worker_failed"
        home.script(first).status = 400
        assert (await home.complete(prompt="x", stream=True)).json()["error"]["code"] == "invalid_value"
        assert not home.script(second).asked


@pytest.mark.parametrize("status", [429, 503])
async def test_a_full_replica_is_passed_over_and_a_full_house_says_so(tmp_path: Path, status: int) -> None:
    async with house(tmp_path) as home:
        first, second = home.order(prompt="x")
        home.script(first).status = status
        assert (await home.stream(prompt="x", seed=SEED))[0] == "".join(words(SEED))
        assert home.fleet.members[second].taken_over == 0
        home.script(second).status = status
        answer = await home.complete(prompt="x", stream=True)
        assert answer.status_code == status and answer.headers["retry-after"] == "7"


async def test_another_answer_is_an_error_and_not_glued_on(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        first, second = home.order(prompt="x")
        home.script(first).die_after, home.script(second).lies = 4, True
        text, _, error = await home.stream(prompt="x", seed=SEED)
        assert error == "worker_failed" and "".join(words(SEED)).startswith(text)


async def test_requests_go_where_their_prefix_is_and_come_back_with_their_replica(tmp_path: Path) -> None:
    async with house(tmp_path, 3) as home:

        async def where(prompt: str) -> str:
            return (await home.complete(prompt=prompt)).headers["x-kelm-replica"]

        prompts = [f"story {n}" for n in range(12)]
        before = [await where(prompt) for prompt in prompts]
        assert before == [home.order(prompt=prompt)[0] for prompt in prompts] and len(set(before)) == 3
        home.replicas["replica-1"].die()
        after = [await where(prompt) for prompt in prompts]
        assert all(new == old for new, old in zip(after, before, strict=True) if old != "replica-1")
        assert "replica-1" not in after
        home.replicas["replica-1"].script = Script()
        await home.up("replica-1")
        assert [await where(prompt) for prompt in prompts] == before


async def test_a_client_that_goes_away_is_gone_for_the_replica_too(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        first = home.order(prompt="x")[0]
        home.script(first).hang_after = None
        body = {"model": "m", "prompt": "x", "stream": True, "seed": SEED}
        async with home.client.stream("POST", f"{home.url}/v1/completions", json=body) as answer:
            await anext(answer.aiter_lines())
        await until(lambda: home.fleet.members[first].active == 0)
        await until(lambda: home.script(first).left == 1)


async def test_the_gate_and_the_bounds_are_the_daemons(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        ask = home.client.post
        assert (await ask(f"{home.url}/v1/completions", content=b"{")).status_code == 400
        deep = b"[" * 100 + b"]" * 100
        assert (await ask(f"{home.url}/v1/completions", content=deep)).json()["error"]["code"] == "invalid_value"
        evil = await ask(f"{home.url}/v1/completions", json={}, headers={"host": "evil.example"})
        assert evil.status_code == 403
        crossed = await ask(f"{home.url}/v1/completions", json={}, headers={"origin": "http://evil.example"})
        assert crossed.status_code == 403
        for path in ("/admin/models/load", "/admin/shutdown", "/nowhere"):
            assert (await ask(f"{home.url}{path}", json={})).status_code == 404
        assert (await home.client.get(f"{home.url}/v1/completions")).status_code == 405
        assert not any(replica.script.asked for replica in home.replicas.values())
        rows = (await home.client.get(f"{home.url}/admin/replicas")).json()["replicas"]
        assert [(row["name"], row["state"]) for row in rows] == [("replica-0", "up"), ("replica-1", "up")]


async def _headers(home: House) -> str:
    await home.complete(prompt="x", seed=1)
    return home.script(home.order(prompt="x")[0]).headers[-1].lower()


async def test_a_replica_hears_who_asks_and_nothing_else(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        home.client.headers.update({"authorization": "Bearer k", "x-request-id": "abc", "cookie": "c=1"})
        seen = await _headers(home)
        assert "authorization: bearer k" in seen and "x-request-id: abc" in seen and "cookie" not in seen
