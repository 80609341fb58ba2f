"""Room in memory for a model: others that nobody uses make place, the least recently used first.

load ─► it fits                                                   ─► resident
    └─► it doesn't: enough of the others are idle?   evict, again ─┘
                    they would be, but are in use?   wait for it, limits.ROOM_WAIT_S at most, and again
                    not even all of them?            fail at once, with the numbers
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from kelm import limits
from kelm.clock import Clock
from kelm.errors import OutOfMemory
from kelm.sched.eviction import Resident, to_evict
from kelm.wire.messages import Loaded

log = logging.getLogger(__name__)

_LOOK_S = 0.05
"""How often a load that waits looks whether the others have become idle."""


class Shelf(Protocol):
    """The resident models, as room is made among them."""

    def shelved(self) -> list[Resident]: ...

    def name_of(self, key: str) -> str: ...

    async def evict(self, key: str) -> None:
        """It must not be in use, and no other may lie on it. Returns when its memory is free."""
        ...


class Room:
    def __init__(self, shelf: Shelf, clock: Clock) -> None:
        self._shelf = shelf
        self._clock = clock
        self._turn = asyncio.Lock()

    async def load(
        self, attempt: Callable[[], Awaitable[Loaded]], say: Callable[[str], None], needs: str | None = None
    ) -> Loaded:
        """The result of ``attempt``, tried again as long as evicting helps. ``say`` is told what is being waited for;
        ``needs``: key of a resident without which it can't be loaded.

        Raises what it raises; OutOfMemory with what is missing, and who has it.
        """
        deadline_s = self._clock.monotonic_s() + limits.ROOM_WAIT_S.value
        while True:
            try:
                async with self._turn:  # what was evicted for one is not taken by another
                    return await self._evicting(attempt, say)
            except OutOfMemory as error:
                if not error.missing_bytes:
                    raise  # no other model has what it lacks
                if self._if_idle(error.missing_bytes, needs) is None:
                    raise self._told(error, "evicting every other model would not be enough") from None
                await self._others_idle(error, deadline_s, say)

    async def _evicting(self, attempt: Callable[[], Awaitable[Loaded]], say: Callable[[str], None]) -> Loaded:
        while True:
            say("loading")
            try:
                return await attempt()
            except OutOfMemory as error:
                missing = error.missing_bytes
                if not missing or self._victims(missing) is None:
                    raise
            while missing > 0 and (victims := self._victims(missing)):  # others may come back to use meanwhile
                held = {one.key: one.held_bytes for one in self._shelf.shelved()}
                say(f"evicting {self._shelf.name_of(victims[0])}")
                await self._shelf.evict(victims[0])
                missing -= held[victims[0]]

    async def _others_idle(self, error: OutOfMemory, deadline_s: float, say: Callable[[str], None]) -> None:
        """Raises ``error`` when they don't become it in time."""
        say(f"waiting for memory that is in use: {self._users()}")
        while self._victims(error.missing_bytes) is None:
            if self._clock.monotonic_s() >= deadline_s:
                raise self._told(error, f"waited {limits.ROOM_WAIT_S.value:.0f} s for it")
            await asyncio.sleep(_LOOK_S)

    def _victims(self, missing_bytes: int) -> list[str] | None:
        return to_evict(self._shelf.shelved(), missing_bytes)

    def _if_idle(self, missing_bytes: int, needs: str | None) -> list[str] | None:
        """As if nobody used any but ``needs``."""
        return to_evict([replace(one, busy=one.key == needs) for one in self._shelf.shelved()], missing_bytes)

    def _told(self, error: OutOfMemory, why: str) -> OutOfMemory:
        users = self._users()
        told = OutOfMemory(f"{error.message}; {why}" + (f"; in use: {users}" if users else ""))
        told.missing_bytes = error.missing_bytes
        return told

    def _users(self) -> str:
        return ", ".join(self._shelf.name_of(one.key) for one in self._shelf.shelved() if one.busy)
