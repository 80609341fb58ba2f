"""Encodings that wait for their turn: one runs between two steps, in the order in which rows are given."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from kelm.sched.shares import Line
from kelm.wire.messages import Encode
from kelm.worker.bill import Bill


@dataclass(frozen=True, slots=True)
class _Waiting:
    seq: int
    request: Encode

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def share(self) -> int:
        return self.request.share


class Encodings:
    """``bill`` says how far behind their tenants are."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, request: Encode) -> None:
        self._bill.open(request.share, request.weight, request.counter)
        self._waiting[request.pid] = _Waiting(self._next, request)
        self._next += 1

    def take(self) -> Encode:
        """The next one; there must be one."""
        first = next(iter(Line(self._waiting.values(), self._bill.shares)))
        return self._waiting.pop(first.request.pid).request

    def cancel(self, pid: int) -> None:
        """Nothing happens when it isn't here."""
        self._waiting.pop(pid, None)

    def renice(self, pid: int, priority: int) -> None:
        """Nothing happens when it isn't here."""
        if pid in self._waiting:
            seq, request = self._waiting[pid].seq, self._waiting[pid].request
            self._waiting[pid] = _Waiting(seq, msgspec.structs.replace(request, priority=priority))
