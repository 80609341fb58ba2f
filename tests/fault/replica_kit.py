"""Scripted replicas behind the real door: each answers as a daemon would, from the seed alone, until its script says
that it dies, hangs or refuses."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn

from kelm.config import load_settings
from kelm.replicas.door import create_app
from kelm.replicas.fleet import Fleet
from kelm.replicas.forward import Forward
from kelm.replicas.messages import Replica
from kelm.serve.protocol import BoundedProtocol

TOKENS = 40


def words(seed: int) -> list[str]:
    """What a model says for a seed."""
    rng = random.Random(seed)
    return [f" w{rng.randrange(1000)}" for _ in range(TOKENS)]


@dataclass
class Script:
    """What one replica does with its requests."""

    die_after: int | None = None
    """Events of one stream, then all of its connections break and it is gone."""
    hang_after: int | None = None
    error_after: tuple[int, str] | None = None
    """Events, and the code of the error event that follows."""
    status: int = 200
    lies: bool = False
    """It computes something else than the others."""
    silent: bool = False
    """It does not answer /ready."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    left: int = 0
    """Streams whose reader went away."""


class ScriptedReplica:
    def __init__(self, name: str) -> None:
        self.name, self.script = name, Script()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def die(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                lines = head.split("\r\n")
                sizes = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
                body = await reader.readexactly(int(sizes[0])) if sizes else b"{}"
                await self._answer(lines[0].split()[1], head, json.loads(body), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, path: str, head: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        script = self.script
        if path == "/ready":
            if script.silent:
                await asyncio.Event().wait()
            return _whole(writer, 200, {"status": "ready"})
        script.asked.append(body)
        script.headers.append(head)
        if script.status != 200:
            code = {429: "overloaded", 503: "unavailable"}.get(script.status, "invalid_value")
            return _whole(writer, script.status, {"error": {"message": "no", "code": code, "param": None}})
        if not body.get("stream"):
            if script.die_after is not None:
                self.die()
                return None
            return _whole(writer, 200, {"choices": [{"index": 0, "text": "".join(words(body.get("seed", 0)))}]})
        return await self._stream(body, writer)

    async def _stream(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        script, number = self.script, 0
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        said = words(body["seed"] + script.lies)
        try:
            while said:
                size = random.randint(1, 4)
                part, said = said[:size], said[size:]
                if number == script.die_after:
                    return self.die()
                if number == script.hang_after:
                    await asyncio.Event().wait()
                if script.error_after is not None and number == script.error_after[0]:
                    _event(writer, {"error": {"message": "told", "code": script.error_after[1], "param": None}})
                    break
                finish = None if said else "length"
                choice = {"index": 0, "text": "".join(part), "finish_reason": finish}
                _event(writer, {"id": f"{self.name}-{random.random()}", "created": 1, "choices": [choice]})
                await writer.drain()
                await asyncio.sleep(0.002)
                number += 1
        except ConnectionError:
            script.left += 1
            raise
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return None


def _event(writer: asyncio.StreamWriter, value: Any) -> None:
    writer.write(_chunk(b"data: " + json.dumps(value).encode() + b"\n\n"))


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _whole(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    writer.write(head.encode() + (b"retry-after: 7\r\n" if status in (429, 503) else b"") + b"\r\n" + data)


@dataclass
class House:
    """The door and the scripted replicas."""

    url: str
    fleet: Fleet
    replicas: dict[str, ScriptedReplica]
    client: httpx2.AsyncClient

    def script(self, name: str) -> Script:
        return self.replicas[name].script

    def order(self, **body: Any) -> list[str]:
        """Which replicas a request would go to, in turn."""
        from kelm.replicas.hashing import order, prefix_key

        return order(self.replicas, prefix_key("/v1/completions", {"model": "m", **body}))

    async def complete(self, **body: Any) -> httpx2.Response:
        return await self.client.post(f"{self.url}/v1/completions", json={"model": "m", **body}, timeout=30)

    async def stream(self, **body: Any) -> tuple[str, list[str], str | None]:
        """(text, ids of the events, code of an error event)."""
        text, ids, code, done = "", [], None, False
        request = {"model": "m", "stream": True, **body}
        async with self.client.stream("POST", f"{self.url}/v1/completions", json=request, timeout=30) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        code = event["error"]["code"]
                        continue
                    ids.append(event["id"])
                    text += event["choices"][0]["text"]
        assert done
        return text, ids, code

    async def up(self, name: str) -> None:
        """Bring a replica up, anew if it died, and let the door know, as the keeper does."""
        url = await self.replicas[name].start()
        await self.fleet.hear(Replica(name, "up", url))


@asynccontextmanager
async def house(tmp_path: Any, count: int = 2, look: bool = False) -> AsyncIterator[House]:
    """The door with ``count`` replicas up; ``look``: with its health checks."""
    settings = load_settings({"home": str(tmp_path)}, {})
    replicas = {f"replica-{n}": ScriptedReplica(f"replica-{n}") for n in range(count)}
    fleet = Fleet(replicas)
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(httpx2.AsyncClient(timeout=None, trust_env=False))
        client = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False))
        app = create_app(fleet, Forward(fleet, inner), settings)
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, http=BoundedProtocol, lifespan="off", log_config=None, ws="none")
        )
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        tasks = [asyncio.create_task(server.serve())]
        if look:
            tasks.append(asyncio.create_task(fleet.look(inner)))
        while not server.started:
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        made = House(url, fleet, replicas, client)
        for name in replicas:
            await made.up(name)
        try:
            yield made
        finally:
            for replica in replicas.values():
                replica.die()
            server.should_exit = server.force_exit = True
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
