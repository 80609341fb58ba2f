"""Small typed values that every node sees: put, get, watch.

    count/<key>        how often the key was put; its newest version
    value/<key>/<n>    msgpack of version n; the last CLUSTER_VERSIONS are kept for readers that are on their way

Node 0 holds them in memory, for as long as it lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import msgspec

from kelm import limits
from kelm.clock import SYSTEM
from kelm.cluster.backend import DistError, TCPStore, appears, put
from kelm.cluster.rendezvous import Meeting
from kelm.errors import InvalidRequest, NodeFailed

T = TypeVar("T")
_SLICE_S = 1.0
"""A wait looks up so often whether it was asked to end."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value and how often its key had been put then."""

    value: Any
    version: int


class SharedStore:
    """One node's view of the values; calls from several threads take turns, except that a watch holds up nobody."""

    def __init__(self, meeting: Meeting, timeout_s: float) -> None:
        self._meeting = meeting
        self._timeout_s = timeout_s
        self._closed = threading.Event()

    def put(self, key: str, value: Any) -> int:
        """Set a value (anything msgpack has: bytes, text, numbers, lists, mappings, msgspec structs); its version.

        Raises InvalidRequest (key or value over its bound, no msgpack), NodeFailed.
        """
        _check_key(key)
        try:
            body = msgspec.msgpack.encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest(f"the value of {key!r} can't be written as msgpack: {error}", param="value") from None
        limits.CLUSTER_VALUE_BYTES.check(len(body), field="value")
        with _reaching(self._meeting):
            version = self._meeting.store.add(f"count/{key}", 1)
            put(self._meeting.store, f"value/{key}/{version}", body)
            self._meeting.store.delete_key(f"value/{key}/{version - int(limits.CLUSTER_VERSIONS.value)}")
        return version

    @overload
    def get(self, key: str, kind: type[T]) -> T | None: ...

    @overload
    def get(self, key: str) -> Any: ...

    def get(self, key: str, kind: Any = Any) -> Any:
        """The newest value, None where nobody has put one. Raises InvalidRequest when it is not a ``kind``."""
        found = self._newest(self._meeting.store, key, kind, 0)
        return None if found is None else found.value

    def watch(
        self, key: str, kind: Any = Any, *, after: int | None = None, timeout_s: float | None = None
    ) -> Versioned:
        """Wait until the key has been put more often than ``after`` (None: than it has now); its newest value.

        Raises NodeFailed when nobody put it within ``timeout_s`` (the system's own if None).
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        store = self._connect()
        start = self._count(store, key) if after is None else after
        found = self._wait(store, key, kind, start, SYSTEM.monotonic_s() + limit_s)
        if found is None:
            raise NodeFailed(f"nobody put {key!r} within {limit_s:g} s")
        return found

    def changes(self, key: str, kind: Any = Any, *, after: int | None = None) -> Iterator[Versioned]:
        """Every change of the key, until the system is closed. Who is slower than the changes misses some of them."""
        store = self._connect()
        version = self._count(store, key) if after is None else after
        while True:
            found = self._wait(store, key, kind, version, None)
            if found is None:
                return
            version = found.version
            yield found

    def on_change(self, key: str, call: Callable[[Versioned], None], kind: Any = Any) -> threading.Thread:
        """Call ``call`` with every change, in a thread that ends when the system is closed or node 0 is gone."""
        after = self._count(self._meeting.store, key)

        def run() -> None:
            try:
                for change in self.changes(key, kind, after=after):
                    call(change)
            except NodeFailed:
                return

        thread = threading.Thread(target=run, name=f"kelm-watch-{key}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self._closed.set()

    def _connect(self) -> TCPStore:
        with _reaching(self._meeting):
            return self._meeting.connect()

    def _count(self, store: TCPStore, key: str) -> int:
        _check_key(key)
        with _reaching(self._meeting):
            return store.add(f"count/{key}", 0)

    def _wait(self, store: TCPStore, key: str, kind: Any, after: int, deadline_s: float | None) -> Versioned | None:
        """None when time is up, or the system closed."""
        while not self._closed.is_set():
            found = self._newest(store, key, kind, after)
            if found is not None:
                return found
            left_s = _SLICE_S if deadline_s is None else min(_SLICE_S, deadline_s - SYSTEM.monotonic_s())
            if left_s <= 0:
                return None
            with _reaching(self._meeting):
                appears(store, f"value/{key}/{after + 1}", left_s)
        return None

    def _newest(self, store: TCPStore, key: str, kind: Any, after: int) -> Versioned | None:
        """The newest version behind ``after``. One that is counted and not there yet, or any more, is looked for
        again: its writer is on its way, or others have overtaken it."""
        deadline_s = SYSTEM.monotonic_s() + self._timeout_s
        while (version := self._count(store, key)) > after:
            with _reaching(self._meeting):
                name = f"value/{key}/{version}"
                if appears(store, name, 0.05):
                    return Versioned(_decode(key, store.get(name), kind), version)
            if SYSTEM.monotonic_s() > deadline_s:
                raise NodeFailed(f"who put {key!r} last died while it did; put it again")
        return None


class _reaching:  # noqa: N801  (a context manager that reads as a sentence)
    """Turns torch's words for a lost store into ours."""

    def __init__(self, meeting: Meeting) -> None:
        self._keeper = meeting.members[0]

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, DistError):
            raise NodeFailed(f"{self._keeper}, which holds the store, does not answer; start all nodes anew") from None


def _decode(key: str, body: bytes, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the value of {key!r} is of another type: {error}", param=key) from None


def _check_key(key: str) -> None:
    if not isinstance(key, str) or not key.isprintable():
        raise InvalidRequest(f"a key must be printable text, got {limits.shown(key)}", param="key")
    limits.CLUSTER_KEY_BYTES.check(len(key.encode()), field="key")
