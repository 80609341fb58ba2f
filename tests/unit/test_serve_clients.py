"""Clients that go away, and how the server leaves: over real sockets, with the small kernel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kelm.errors import Cancelled
from kelm.serve.stream import unless_gone
from serve_kit import ToyKernel, exchange, request_bytes, status_of, toy_model, toy_server


@pytest.fixture
def kernel(tmp_path: Path) -> ToyKernel:
    models = {"toy": toy_model(tmp_path / "toy"), "emb": toy_model(tmp_path / "emb", "emb:latest", tasks=["embed"])}
    return ToyKernel(models)


@pytest.fixture
async def port(tmp_path: Path, kernel: ToyKernel) -> AsyncIterator[int]:
    async with toy_server(tmp_path, kernel) as taken:
        yield taken


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_client_that_goes_away_cancels(port: int, kernel: ToyKernel, path: str, stream: bool) -> None:
    kernel.go.clear()
    what = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": ["a", "b"]}
    body = json.dumps({"model": "toy", "stream": stream, **what}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("POST", path, body))
    await until(lambda: len(kernel.started) == (1 if "chat" in path else 2))
    assert not any(process.cancelled for process in kernel.started)
    writer.close()
    await until(lambda: all(process.cancelled for process in kernel.started))


async def test_a_client_that_goes_away_in_the_middle_of_a_stream(port: int, kernel: ToyKernel) -> None:
    body = json.dumps({"model": "toy", "prompt": "a", "stream": True, "max_tokens": 200}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("POST", "/v1/completions", body))
    await reader.readuntil(b"data: ")
    kernel.go.clear()
    await asyncio.sleep(0.02)
    assert not kernel.started[0].cancelled
    writer.close()
    await until(lambda: kernel.started[0].cancelled)


async def test_a_client_that_goes_away_cancels_an_encoding(port: int, kernel: ToyKernel) -> None:
    ended = asyncio.Event()
    encode = kernel.encode

    async def watched(request: object) -> object:
        try:
            return await encode(request)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            ended.set()
            raise

    kernel.encode = watched  # type: ignore[assignment, method-assign]
    kernel.go.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("POST", "/v1/embeddings", b'{"model": "emb", "input": "a"}'))
    await until(lambda: kernel.encoded)
    writer.close()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_half_a_body_and_gone(port: int, kernel: ToyKernel) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes("POST", "/v1/completions", b'{"model"', content_length="100"))
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.05)
    assert kernel.started == []
    assert status_of(await exchange(port, request_bytes("GET", "/health"))) == 200


async def test_one_connection_many_requests(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ask = request_bytes("GET", "/health", connection="keep-alive")
    writer.write(ask * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        await reader.readexactly(len(b'{"status":"ok"}'))
    writer.close()


async def test_shutdown_by_the_admin_door_drains(tmp_path: Path, kernel: ToyKernel) -> None:
    async with toy_server(tmp_path, kernel, drain_s=3) as port:
        assert b"shutting down" in await exchange(port, request_bytes("POST", "/admin/shutdown"))
        await until(lambda: kernel.drained_s is not None)
    assert kernel.drained_s == 3
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_work_ends_with_its_client_and_leaves_nothing() -> None:
    gone = asyncio.Event()
    ended: list[str] = []

    async def receive() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return 1

    async def quick() -> int:
        return 2

    async def wrong() -> int:
        raise ValueError("x")

    before = asyncio.all_tasks()
    assert await unless_gone(receive, quick()) == 2
    with pytest.raises(ValueError, match="x"):
        await unless_gone(receive, wrong())
    asyncio.get_running_loop().call_later(0.01, gone.set)
    with pytest.raises(Cancelled):
        await unless_gone(receive, work())
    assert ended == ["cancelled"]
    assert asyncio.all_tasks() == before
