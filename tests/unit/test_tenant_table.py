"""Tenants in the daemon: who is idle, where counters stand, what was served."""

from __future__ import annotations

import pytest

from kelm.clock import ManualClock
from kelm.kernel.tenants import Tenants
from kelm.wire.messages import Charge


def tenants(weights: dict[str, int] | None = None, clock: ManualClock | None = None) -> Tenants:
    return Tenants(lambda: weights or {}, clock or ManualClock())


def test_numbers_are_given_in_turn_and_weights_are_looked_up_each_time() -> None:
    weights = {"a": 3}
    table = tenants(weights)
    assert [table.of(name).number for name in ("a", "b", "a")] == [0, 1, 0]
    assert (table.of("a").share.weight, table.of("b").share.weight) == (3, 1)
    table.charged([Charge(0, 30, 10.0)])
    weights["a"] = 5
    assert table.of("a").share.weight == 5 and table.of("a").share.counter == 10.0


def test_a_tenant_that_comes_back_is_lifted_to_the_least_of_those_who_want_something() -> None:
    table = tenants()
    a, b, c = table.of("a"), table.of("b"), table.of("c")
    for tenant, pid in ((a, 1), (b, 2)):
        table.wants(tenant, pid, True)
    table.charged([Charge(a.number, 100, 100.0), Charge(b.number, 70, 70.0)])
    table.wants(c, 3, True)
    assert c.share.counter == 70.0
    table.wants(c, 4, True)
    assert c.wanting == {3, 4}, "it was not idle"


def test_one_that_goes_on_with_other_work_keeps_its_lead() -> None:
    table = tenants()
    a, b = table.of("a"), table.of("b")
    table.wants(a, 1, True)
    table.wants(b, 2, True)
    table.charged([Charge(a.number, 100, 100.0)])
    table.wants(b, 3, True)
    table.wants(b, 2, False)
    assert b.share.counter == 0.0


def test_when_nobody_wants_anything_the_last_one_who_did_counts() -> None:
    table = tenants()
    a, b = table.of("a"), table.of("b")
    table.wants(a, 1, True)
    table.charged([Charge(a.number, 500, 500.0)])
    table.wants(a, 1, False)
    table.wants(b, 2, True)
    assert b.share.counter == 500.0


def test_a_worker_never_takes_a_counter_back() -> None:
    table = tenants()
    a, b = table.of("a"), table.of("b")
    table.wants(b, 1, True)
    table.charged([Charge(b.number, 80, 80.0)])
    table.wants(a, 2, True)
    table.charged([Charge(a.number, 5, 5.0)])  # said before it heard of the lift
    assert (a.share.counter, a.served_tokens) == (80.0, 5)


def test_shares_wanted_and_served() -> None:
    clock = ManualClock(100.0)
    table = tenants({"a": 2, "b": 1, "new": 4}, clock)
    a, b = table.of("a"), table.of("b")
    assert table.wanted_share(a) is None and table.served_share(a) is None
    table.wants(a, 1, True)
    assert table.wanted_share(a) == 1.0
    table.wants(b, 2, True)
    assert (table.wanted_share(a), table.wanted_share(b)) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    table.charged([Charge(a.number, 300, 150.0)])
    clock.advance(30)
    table.charged([Charge(b.number, 100, 100.0)])
    assert (table.served_share(a), table.served_share(b)) == (0.75, 0.25)
    clock.advance(31)  # the first second is out of the window
    assert (table.served_share(a), table.served_share(b)) == (0.0, 1.0)
    clock.advance(60)
    assert table.served_share(a) is None
    assert (a.served_tokens, b.served_tokens) == (300, 100)
    assert [tenant.name for tenant in table.all()] == ["a", "b", "new"]
