"""Encodings that wait in the worker: by priority, then the tenant that is behind, then arrival."""

from __future__ import annotations

from kelm.wire.messages import Encode
from kelm.worker.bill import Bill
from kelm.worker.encodings import Encodings


def encode(pid: int, tokens: int = 10, **more: int | float) -> Encode:
    return Encode(pid=pid, model="m", task="embed", inputs=[[1] * tokens], **more)  # type: ignore[arg-type]


def drained(line: Encodings, bill: Bill) -> list[int]:
    """Pids in the order in which they are taken; each is charged as the engine does it."""
    pids = []
    while line:
        request = line.take()
        bill.charge(request.share, sum(map(len, request.inputs)))
        pids.append(request.pid)
    return pids


def test_priority_then_tenant_then_arrival() -> None:
    bill = Bill()
    line = Encodings(bill)
    for pid, (share, priority) in enumerate([(1, 0), (1, 0), (2, 0), (2, 5), (1, -1)]):
        line.put(encode(pid, share=share, priority=priority))
    assert drained(line, bill) == [4, 2, 0, 1, 3]


def test_a_tenant_of_twice_the_weight_gets_twice_the_pieces() -> None:
    bill = Bill()
    line = Encodings(bill)
    for pid in range(18):
        line.put(encode(pid, share=pid % 2, weight=1 + pid % 2))
    assert sum(pid % 2 for pid in drained(line, bill)[:9]) == 6


def test_a_piece_by_piece_encoding_keeps_its_tenants_place_and_changes_are_heard() -> None:
    bill = Bill()
    line = Encodings(bill)
    for pid in range(4):
        line.put(encode(pid))
    line.renice(3, -2)
    line.renice(99, 1)
    line.cancel(1)
    line.cancel(99)
    assert drained(line, bill) == [3, 0, 2] and not line


def test_the_counter_that_comes_with_a_request_counts() -> None:
    bill = Bill()
    line = Encodings(bill)
    line.put(encode(0, share=1, counter=50.0))
    line.put(encode(1, share=2, counter=40.0))
    assert drained(line, bill) == [1, 0]
