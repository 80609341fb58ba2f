"""One request: to the replica that has its prefix, and if that is lost, to the next one, until the client has it all.

admission    a seed if it has none, so that whoever computes it computes the same
refused      429 and 503 go on to the next replica; what the last one says is the answer
lost         before the first byte: the next replica. In a stream: the next one, and what was delivered is skipped
nobody up    a new request is refused; one that was begun waits
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
from starlette.responses import Response

from kelm import limits
from kelm.errors import KelmError, Unavailable, WorkerFailed, by_code
from kelm.replicas.fleet import Fleet, Member, ReplicaLost
from kelm.replicas.hashing import prefix_key
from kelm.replicas.resume import Delivered, Json
from kelm.serve.stream import EventStream

log = logging.getLogger(__name__)

SEEDED = {"/v1/completions", "/v1/chat/completions"}
_PASSED_BACK = ("content-type", "retry-after", "x-kelm-pid")
_TRY_ELSEWHERE = (429, 503)
_DONE = b"[DONE]"
_GIVEN_UP = "every replica that took this request on died; it is not tried any further"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as it goes to a replica, as often as it takes."""

    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    key: bytes
    body: bytes | None = None
    streams: bool = False


def ask_of(path: str, body: Any, headers: Mapping[str, str]) -> Ask:
    """Of a POST with this parsed body."""
    key = prefix_key(path, body)
    if path in SEEDED and isinstance(body, dict) and body.get("seed") is None:
        body = {**body, "seed": secrets.randbits(63)}
    streams = isinstance(body, dict) and body.get("stream") is True
    return Ask("POST", path, headers, key, msgspec.json.encode(body), streams)


class Forward:
    """Sends requests to the replicas of ``fleet``."""

    def __init__(self, fleet: Fleet, client: httpx2.AsyncClient) -> None:
        self._fleet, self._client = fleet, client

    async def answer(self, ask: Ask) -> Response:
        """Raises Unavailable when no replica is up, WorkerFailed when too many died under this request."""
        attempt = await self._begin(ask)
        if attempt.response.status_code == 200 and ask.streams:
            return EventStream(self._events(ask, attempt), nullcontext(), _headers(attempt))
        return attempt.whole()

    async def _begin(self, ask: Ask, *, began: bool = False) -> _Attempt:
        """An attempt that a replica has taken on; a whole answer has been read. ``began``: the client has a part."""
        passed_over: list[Member] = []
        refusal: _Attempt | None = None
        lost = 0
        while lost < limits.REPLICA_TRIES.value:
            member = self._fleet.pick(ask.key, passed_over)
            if member is None and refusal is None and (began or lost):
                member = await self._fleet.wait_for(ask.key, limits.REPLICA_WAIT_S.value)
            if member is None:
                break
            attempt = _Attempt(self._fleet, member)
            try:
                await attempt.start(self._client, ask)
            except ReplicaLost:
                lost += 1
                continue
            if attempt.response.status_code not in _TRY_ELSEWHERE:
                member.taken_over += bool(began or lost)
                return attempt
            passed_over.append(member)
            refusal = attempt
        if refusal is not None:
            return refusal
        if lost:
            raise WorkerFailed(_GIVEN_UP)
        raise Unavailable(
            "no replica is up: they are starting, or have died and are started anew",
            retry_after_s=limits.RETRY_AFTER_S.value,
        )

    async def _events(self, ask: Ask, attempt: _Attempt) -> AsyncIterator[Json]:
        """The events of one stream, from as many replicas as it takes. Raises WorkerFailed, and what ended it."""
        delivered, fruitless = Delivered(), 0
        while True:
            try:
                async for event in attempt.events():
                    if (fresh := delivered.event(event)) is not None:
                        fruitless = 0
                        yield fresh
                return
            except ReplicaLost as lost:
                log.warning("stream_moves from=%s", lost)
            finally:
                await attempt.close()
            fruitless += 1
            if fruitless >= limits.REPLICA_TRIES.value:
                raise WorkerFailed(_GIVEN_UP)
            attempt = await self._begin(ask, began=True)
            if attempt.response.status_code != 200:
                raise _error_of(attempt)
            delivered.again()


class _Attempt:
    """One request at one replica."""

    response: httpx2.Response

    def __init__(self, fleet: Fleet, member: Member) -> None:
        self.member = member
        self._fleet = fleet
        self._told = member.report
        self._stack = AsyncExitStack()

    async def start(self, client: httpx2.AsyncClient, ask: Ask) -> None:
        """Send it; read the answer unless it is a stream. Raises ReplicaLost."""
        self.member.requests += 1
        self.member.active += 1
        self._stack.callback(self._ended)
        url, told = f"{self.member.url}{ask.target}", dict(ask.headers)
        try:
            async with self._until_lost():
                self.response = await self._stack.enter_async_context(
                    client.stream(ask.method, url, content=ask.body, headers=told)
                )
                if self.response.status_code != 200 or not ask.streams:
                    await self.response.aread()
                    await self.close()
        except BaseException:
            await self.close()
            raise

    async def events(self) -> AsyncIterator[Json]:
        """The objects of a stream, up to [DONE]. Raises ReplicaLost, also where it ends before that."""
        chunks, buffer = self.response.aiter_bytes(), b""
        while True:
            async with self._until_lost():
                chunk = await anext(chunks, None)
            if chunk is None:
                raise await self._lost("it ended early")
            *events, buffer = (buffer + chunk).split(b"\n\n")
            if len(buffer) > limits.WIRE_FRAME_BYTES.most:
                raise await self._lost("an event has no end")
            for event in events:
                data = event.removeprefix(b"data: ")
                if data == _DONE:
                    return
                yield await self._parsed(data)

    def whole(self) -> Response:
        """An answer that was read, for the client."""
        return Response(self.response.content, self.response.status_code, _headers(self))

    async def close(self) -> None:
        await self._stack.aclose()

    async def _parsed(self, data: bytes) -> Json:
        value = msgspec.json.decode(data)
        if "error" not in value:
            return dict(value)
        error = value["error"]
        if error.get("code") == Unavailable.code:  # it is being ended
            raise await self._lost(str(error.get("message")))
        raise by_code(str(error.get("code")))(str(error.get("message")), param=error.get("param"))

    @asynccontextmanager
    async def _until_lost(self) -> AsyncIterator[None]:
        """Wait for the replica inside: it may break off, or be known to be gone."""
        try:
            async with self.member.waiting():
                yield
        except httpx2.HTTPError as error:
            raise await self._lost(type(error).__name__) from None

    async def _lost(self, why: str) -> ReplicaLost:
        log.info("replica_doubted name=%s reason=%r", self.member.name, why)
        await self._fleet.doubt(self.member, self._told)
        return ReplicaLost(self.member.name)

    def _ended(self) -> None:
        self.member.active -= 1


def _headers(attempt: _Attempt) -> dict[str, str]:
    given = attempt.response.headers
    passed = {name: given[name] for name in _PASSED_BACK if name in given}
    return passed | {"x-kelm-replica": attempt.member.name}


def _error_of(attempt: _Attempt) -> KelmError:
    """What a replica refused the rest of a stream with."""
    try:
        error = msgspec.json.decode(attempt.response.content)["error"]
        return by_code(str(error["code"]))(str(error["message"]))
    except (msgspec.DecodeError, KeyError, TypeError):
        return WorkerFailed(f"the replica that took over answered {attempt.response.status_code}")
