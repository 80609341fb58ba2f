"""Who lives, and what each node is doing: a beat in the store, so that a failure can be told by name.

    beat/<rank>   [number of the beat, number of the collective call, what it is]   written every CLUSTER_BEAT_S
    fault         what the first node that saw a failure made of it; every other one ends its wait with it

A connection that broke does not say whose process died: in a ring the neighbour of a dead node's neighbour only sees
somebody give up. So whoever sees an error looks whose beat has stopped.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import msgspec

from kelm import limits
from kelm.clock import SYSTEM
from kelm.cluster.backend import DistError, put
from kelm.cluster.rendezvous import Meeting
from kelm.errors import NodeFailed

_FAULT = "fault"
_MISSED = 3
"""Beats that a node may miss before it counts as dead."""


class Beat(msgspec.Struct, array_like=True, frozen=True):
    number: int = 0
    call: int = 0
    doing: str = "its start"
    left: bool = False


class Pulse:
    """A thread that beats until ``stop``. ``fault``: set once this node or another one has seen a failure."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.fault: NodeFailed | None = None
        self._members = meeting.members
        self._rank = rank
        self._others = [other for other in range(len(meeting.members)) if other != rank]
        self._store = meeting.connect()
        self._lock = threading.Lock()
        self._beat_s = limits.CLUSTER_BEAT_S.value
        self._store.set_timeout(timedelta(seconds=max(1.0, _MISSED * self._beat_s)))
        self._stopped = threading.Event()
        self._number = 0
        self._now = (0, Beat().doing)
        self._thread = threading.Thread(target=self._run, name="kelm-pulse", daemon=True)
        self._thread.start()

    def doing(self, call: int, what: str) -> None:
        """What this node does now; the others can read it from the next beat on."""
        self._now = (call, what)

    def stop(self) -> None:
        """Leave: the others are told."""
        self._stopped.set()
        self._thread.join()
        with suppress(DistError):
            self._tell(left=True)

    def outlive(self, timeout_s: float) -> None:
        """Wait until every other node has left or is dead: they read here what has happened. ``timeout_s`` at most, and
        after a failure not longer than they need to find out about it."""
        patience_s = 2 * (_MISSED + 1) * self._beat_s
        now_s = SYSTEM.monotonic_s()
        deadline_s = now_s + (timeout_s if self.fault is None else min(timeout_s, patience_s))
        heard: dict[int, tuple[int, float]] = {}
        while now_s < deadline_s:
            for rank, beat in self._beats().items():
                if heard.get(rank, (None, 0.0))[0] != beat.number:
                    heard[rank] = (beat.number, now_s if not beat.left else -math.inf)
            if all(now_s - at_s > patience_s for _, at_s in heard.values()):
                return
            SYSTEM.sleep_s(self._beat_s / 10)
            now_s = SYSTEM.monotonic_s()

    def blame(self, what: str, timeout_s: float, peers: Sequence[int]) -> NodeFailed:
        """The error for ``what``, which failed or took longer than ``timeout_s``: it names the nodes that are dead,
        else those of ``peers`` that are elsewhere. The other nodes hear of it."""
        if self.fault is None:
            words = self._finding(what, timeout_s, peers)
            with suppress(DistError):  # node 0 is gone: every node finds that out by itself
                self._listen()
                if self.fault is None:
                    with self._lock:
                        self._store.set(_FAULT, words)
            self.fault = self.fault or NodeFailed(words)
        return self.fault

    def _finding(self, what: str, timeout_s: float, peers: Sequence[int]) -> str:
        try:
            before = self._beats()
            SYSTEM.sleep_s((_MISSED + 1) * self._beat_s)
            after = self._beats()
        except DistError:
            return self._lost()
        silent = [rank for rank in self._others if after[rank].number == before[rank].number]
        dead = [rank for rank in silent if rank in peers or not after[rank].left]
        if dead:
            names = ", ".join(self._fate(rank, after[rank]) for rank in dead)
            return f"{what} failed: {names}; close this system, start what is missing and join anew"
        elsewhere = [rank for rank in peers if after[rank].call != self._now[0]] or list(peers)
        where = "; ".join(f"{self._members[rank]} is at {after[rank].doing}" for rank in elsewhere)
        return (
            f"{what} did not come about within {timeout_s:g} s: all nodes live, but {where}; every node must make the "
            "same calls in the same order"
        )

    def _fate(self, rank: int, beat: Beat) -> str:
        return f"{self._members[rank]} {'has left' if beat.left else 'died or hangs'}"

    def _lost(self) -> str:
        return f"{self._members[0]}, which holds the store, died or hangs; start all nodes anew"

    def _beats(self) -> dict[int, Beat]:
        """The others' newest beats; a first one where a node has not beaten yet."""
        found = {}
        with self._lock:
            for rank in self._others:
                key = f"beat/{rank}"
                there = self._store.check([key])
                found[rank] = msgspec.msgpack.decode(self._store.get(key), type=Beat) if there else Beat()
        return found

    def _run(self) -> None:
        while True:
            try:
                self._tell()
                self._listen()
            except DistError:
                self.fault = self.fault or NodeFailed(self._lost())
                return
            if self._stopped.wait(self._beat_s):
                return

    def _tell(self, *, left: bool = False) -> None:
        self._number += 1
        beat = Beat(self._number, *self._now, left)
        with self._lock:
            put(self._store, f"beat/{self._rank}", msgspec.msgpack.encode(beat))

    def _listen(self) -> None:
        with self._lock:
            words = self._store.get(_FAULT).decode() if self._store.check([_FAULT]) else None
        if words is not None and self.fault is None:
            self.fault = NodeFailed(words)
