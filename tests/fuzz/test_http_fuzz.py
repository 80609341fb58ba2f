"""Rubbish on the sockets. Every answer is an error in OpenAI's shape or a closed connection, never a 500, and a
stream that runs beside it goes on."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.requests import Request

from kelm import limits
from kelm.errors import PayloadTooLarge
from kelm.serve import body, protocol
from kelm.serve.app import POST
from serve_kit import ToyKernel, client_of, exchange, request_bytes, status_of, toy_app, toy_model, toy_server

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture
def kernel(tmp_path: Path) -> ToyKernel:
    return ToyKernel({"toy": toy_model(tmp_path / "toy")})


@pytest.fixture
async def port(tmp_path: Path, kernel: ToyKernel) -> AsyncIterator[int]:
    async with toy_server(tmp_path, kernel) as taken:
        yield taken


def check(answer: bytes) -> int:
    """An error in the one shape there is; its status."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = status_of(answer)
    assert 400 <= status < 500, answer[:300]
    assert b"content-type: application/json" in head.lower()
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    return status


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_any_json_at_every_door(tmp_path: Path, kernel: ToyKernel, data: Any) -> None:
    path = data.draw(st.sampled_from([path for path in POST if path != "/admin/shutdown"]))
    known = {name: check.schema() for name, check in _table(path).items()}
    drawn = data.draw(JSON | st.dictionaries(st.sampled_from(sorted(known)), JSON) | _near(known))

    async def send() -> None:
        async with client_of(toy_app(tmp_path, kernel)) as http:
            raw = json.dumps(drawn, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
            response = await http.post(path, content=raw)
            assert response.status_code < 500, (drawn, response.text)
            if response.status_code != 200:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    asyncio.run(send())


def _table(path: str) -> dict[str, Any]:
    from kelm.serve import fields

    return fields.table(POST[path][0])


def _near(known: dict[str, Any]) -> Any:
    """Bodies that get past the first checks: what the door needs, and a field or two of anything."""
    usual = {
        "model": "toy", "prompt": "a", "messages": [{"role": "user", "content": "a"}], "input": "a", "text_1": "a",
        "text_2": "a", "query": "a", "documents": ["a"], "tokens": [1],
    }  # fmt: skip
    base = {name: value for name, value in usual.items() if name in known}
    return st.dictionaries(st.sampled_from(sorted(known)), JSON, max_size=2).map(lambda more: {**base, **more})


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(raw=st.binary(max_size=200))
def test_random_bytes_as_a_body(tmp_path: Path, kernel: ToyKernel, raw: bytes) -> None:
    async def send() -> None:
        async with client_of(toy_app(tmp_path, kernel)) as http:
            response = await http.post("/v1/completions", content=raw)
            assert response.status_code == 400, response.text

    asyncio.run(send())


async def test_random_bytes_on_the_socket(port: int) -> None:
    chance = random.Random(1)
    seeds = [b"", request_bytes("POST", "/v1/completions", b'{"model": "toy", "prompt": "a"}')]
    for _ in range(60):
        data = bytearray(chance.choice(seeds) or chance.randbytes(300))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        answer = await exchange(port, bytes(data))
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
        assert b" 500 " not in answer[:20]
    assert status_of(await exchange(port, request_bytes("GET", "/health"))) == 200


@pytest.mark.parametrize(
    "data",
    [
        request_bytes("GET", "/health", x_long="a" * 10_000_000),
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%d: y\r\n" % i for i in range(200_000)) + b"\r\n",
        b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        request_bytes("GET", "/health", x_long="a" * (int(limits.HEADER_BYTES.most) + 1)),
        b"G" * 10_000_000,
    ],
    ids=["one", "many", "path", "just over", "method"],
)
async def test_too_much_in_the_head(port: int, data: bytes) -> None:
    """Refused before it is read to its end; a client that goes on writing is cut off."""
    answer = await exchange(port, data)
    assert not answer or check(answer) in (431, 400)
    assert status_of(await exchange(port, request_bytes("GET", "/health"))) == 200


@pytest.mark.parametrize("start", [b"GET /health HTTP/1.1\r\nx: ", b"GET /", b"GET /health HTTP/1.1\r\n"])
async def test_a_head_that_never_ends_is_refused_at_its_bound(port: int, start: bytes) -> None:
    most = int(limits.HEADER_BYTES.most)
    endless = b"x: y\r\n" * most if start.endswith(b"\n") else b"a" * 2 * most
    assert check(await exchange(port, start + endless)) == 431


async def test_a_connection_that_says_nothing_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT_S", limits.Bound("x", 0, 10, 0.2, "", "", integer=False))
    assert check(await exchange(port, b"")) == 408


async def test_a_body_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_BYTES", limits.Bound("body", 0, 1 << 20, None, "bytes", ""))
    left = 64

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": random.randbytes(1 << 18), "more_body": left > 0}

    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=str(64 << 18)):
            await body.read_bytes(Request({"type": "http", "headers": []}, receive))
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


async def test_a_head_just_inside_its_bound(port: int) -> None:
    data = request_bytes("GET", "/health", x_long="a" * (int(limits.HEADER_BYTES.most) - 200))
    assert status_of(await exchange(port, data)) == 200


async def test_bodies_that_are_too_large_or_too_deep(port: int) -> None:
    large = b'{"prompt": "' + b"a" * int(limits.BODY_BYTES.most) + b'"}'
    assert check(await exchange(port, request_bytes("POST", "/v1/completions", large))) == 413
    waiting = request_bytes("POST", "/v1/completions", expect="100-continue", content_length="99999999999")
    assert check(await exchange(port, waiting)) == 413
    deep = b"[" * 1_000_000
    assert check(await exchange(port, request_bytes("POST", "/v1/completions", deep))) == 400
    chunked = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    assert check(await exchange(port, chunked)) == 400
    both = request_bytes("POST", "/v1/completions", b"0\r\n\r\n", transfer_encoding="chunked")
    assert check(await exchange(port, both)) == 400


async def test_slow_heads_and_slow_bodies_are_cut(
    port: int, monkeypatch: pytest.MonkeyPatch, kernel: ToyKernel
) -> None:
    short = limits.Bound("x", 0, 10, 2.5, "seconds", "", integer=False)
    monkeypatch.setattr(limits, "HEADER_TIMEOUT_S", short)
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", short)

    async def dribble(start: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        reading = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            while not reading.done():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        with suppress(ConnectionError):
            return await reading
        return b""

    async with asyncio.timeout(30):
        heads = [dribble(b"GET /health HTTP/1.1\r\nx: ") for _ in range(50)]
        bodies = [dribble(request_bytes("POST", "/v1/completions", content_length="100000")) for _ in range(50)]
        dribbling = [asyncio.create_task(each) for each in (*heads, *bodies)]
        await asyncio.sleep(0.05)
        for _ in range(5):
            assert status_of(await exchange(port, request_bytes("GET", "/health"))) == 200
        assert not any(task.done() for task in dribbling), "health did not wait for them"
        answers = await asyncio.gather(*dribbling)
    assert [check(answer) for answer in answers[:50]] == [408] * 50
    assert {check(answer) for answer in answers[50:] if answer} == {408}
    assert kernel.submitted == []


async def test_connections_are_bounded(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", limits.Bound("x", 0, 10, 3, "", ""))
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    await asyncio.sleep(0.05)
    answer = await exchange(port, b"")
    assert status_of(answer) == 503
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "unavailable"
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(0.05)
    assert status_of(await exchange(port, request_bytes("GET", "/health"))) == 200


async def test_a_reader_that_takes_nothing_is_cut(
    port: int, monkeypatch: pytest.MonkeyPatch, kernel: ToyKernel
) -> None:
    monkeypatch.setattr(protocol.limits, "STALL_TIMEOUT_S", limits.Bound("x", 0, 10, 0.3, "", "", integer=False))
    kernel.models["toy"].info = type(kernel.models["toy"].info)(
        **{name: getattr(kernel.models["toy"].info, name) for name in kernel.models["toy"].info.__struct_fields__}
        | {"max_context_tokens": 1 << 20}
    )
    asked = json.dumps({"model": "toy", "prompt": "a" * 64, "stream": True, "max_tokens": 1 << 19}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request_bytes("POST", "/v1/completions", asked))
    async with asyncio.timeout(20):
        while not (kernel.started and kernel.started[0].cancelled):
            await asyncio.sleep(0.05)
    assert status_of(await exchange(port, request_bytes("GET", "/health"))) == 200
    writer.transport.abort()


async def test_a_bystander_goes_on(port: int, kernel: ToyKernel) -> None:
    """One stream, token by token, while everything above happens beside it."""
    asked = json.dumps({"model": "toy", "prompt": "quick fox", "stream": True, "max_tokens": 200}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("POST", "/v1/completions", asked))
    rubbish = [b"[" * 100_000, b"\xff" * 1000, json.dumps({"model": "toy", "prompt": "a", "n": 2**63}).encode()]
    stream = asyncio.create_task(reader.read())
    for junk in rubbish:
        check(await exchange(port, request_bytes("POST", "/v1/completions", junk)))
        check(await exchange(port, junk + b"\r\n\r\n"))
    text = (await stream).decode()
    assert text.count('"finish_reason":"length"') == 1
    assert "data: [DONE]" in text
    assert text.count("data: {") == 200
    writer.close()
