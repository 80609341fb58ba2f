"""Which replicas are up. The keeper says where they are, a health check whether they answer, and whoever loses one in
the middle of a request says so at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from kelm import limits
from kelm.replicas.hashing import order
from kelm.replicas.messages import Replica, State

log = logging.getLogger(__name__)


class ReplicaLost(Exception):
    """A replica stopped to answer in the middle of a request."""


@dataclass(eq=False)
class Member:
    """One replica as the door sees it."""

    name: str
    state: State = "starting"
    answers: bool = True
    """What the last look said; only of one that is up."""
    report: Replica | None = None
    requests: int = 0
    """Sent to it so far."""
    active: int = 0
    taken_over: int = 0
    """Of ``requests``, those that another replica had begun."""
    misses: int = 0
    _waits: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def up(self) -> bool:
        return self.state == "up" and self.answers

    @property
    def url(self) -> str:
        assert self.report is not None
        return self.report.url

    def row(self) -> dict[str, Any]:
        """As GET /admin/replicas shows it."""
        told = self.report or Replica(self.name, self.state)
        state = self.state if self.answers else "silent"
        figures = {"requests": self.requests, "active": self.active, "taken_over": self.taken_over}
        return {"name": self.name, "state": state, "url": told.url, "node": told.node, "pids": told.pids, **figures}

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for this replica inside: raises ReplicaLost as soon as it is known to be gone."""
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            raise ReplicaLost(self.name) from None

    def drop(self) -> None:
        """Whoever waits for it need not any more."""
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            with suppress(RuntimeError):  # over already
                wait.reschedule(now)


class Fleet:
    """All replicas by name, up or not: which one a key belongs to depends on the names alone."""

    def __init__(self, names: Iterable[str]) -> None:
        self.members = {name: Member(name) for name in names}
        self._changed = asyncio.Condition()

    async def hear(self, told: Replica) -> None:
        """The keeper's word on one of them."""
        member = self.members[told.name]
        member.state, member.report, member.answers, member.misses = told.state, told, True, 0
        log.info("replica_%s name=%s url=%s reason=%r", told.state, told.name, told.url, told.why)
        await self._tell(member)

    async def hear_nothing(self, why: str) -> None:
        """The keeper is gone, and all replicas with it."""
        for member in self.members.values():
            if member.state != "lost":
                await self.hear(Replica(member.name, "lost", why=why))

    async def doubt(self, member: Member, told: Replica | None) -> None:
        """A request found it gone, when the keeper's word on it was ``told``; the next look decides."""
        if member.report is told and member.answers:
            member.answers = False
            await self._tell(member)

    def pick(self, key: bytes, besides: Collection[Member] = ()) -> Member | None:
        """Who takes a request with this key; None when nobody does."""
        ranked = (self.members[name] for name in order(self.members, key))
        return next((member for member in ranked if member.up and member not in besides), None)

    async def wait_for(self, key: bytes, seconds: float) -> Member | None:
        """As ``pick``; waits until there is somebody, for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.pick(key) is not None)
        return self.pick(key)

    async def look(self, client: httpx2.AsyncClient) -> None:
        """Ask every replica, again and again, whether it is alive."""
        while True:
            await asyncio.gather(*(self._look(client, member) for member in self.members.values()))
            await asyncio.sleep(limits.REPLICA_LOOK_S.value)

    async def _look(self, client: httpx2.AsyncClient, member: Member) -> None:
        told = member.report
        if member.state != "up" or told is None:
            return
        try:
            answer = await client.get(f"{told.url}/ready", timeout=limits.REPLICA_ANSWER_S.value)
            alive = answer.status_code == 200
        except httpx2.HTTPError:
            alive = False
        if member.report is not told:
            return
        member.misses = 0 if alive else member.misses + 1
        before = member.answers
        member.answers = alive or (before and member.misses < limits.REPLICA_MISSES.value)
        if member.answers != before:
            log.info("replica_%s name=%s", "answers" if member.answers else "silent", member.name)
            await self._tell(member)

    async def _tell(self, member: Member) -> None:
        if not member.up:
            member.drop()
        async with self._changed:
            self._changed.notify_all()
