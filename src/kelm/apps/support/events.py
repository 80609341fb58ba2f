"""Who waits for news of a conversation, in this process: streams that are told to look into the database again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from kelm import limits
from kelm.errors import Overloaded


class News:
    """One event for each stream; a stream that was told several times before it looks, looks once."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.over = False

    def check(self, key: str) -> None:
        """Raises Overloaded when the key has as many streams as it may."""
        held = len(self._waiting.get(key, ()))
        if held >= limits.SUPPORT_STREAMS.value:
            raise Overloaded(f"this session has {held} streams open already; close a tab", retry_after_s=10)

    @contextmanager
    def listening(self, key: str) -> Iterator[asyncio.Event]:
        """The event of one stream, for as long as it lasts."""
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            held = self._waiting[key]
            held.discard(event)
            if not held:
                del self._waiting[key]

    def tell(self, key: str) -> None:
        """There is something new."""
        for event in self._waiting.get(key, ()):
            event.set()

    def end(self) -> None:
        """Every stream leaves."""
        self.over = True
        for key in self._waiting:
            self.tell(key)
