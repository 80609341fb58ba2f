"""Whoever kills the worker is failed, nobody else is, and it takes about log2 restarts for each."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kelm.kernel.suspects import Suspects


@st.composite
def crowds(draw: st.DrawFn) -> tuple[int, set[int]]:
    size = draw(st.integers(1, 40))
    return size, draw(st.sets(st.integers(0, size - 1), max_size=4))


@given(crowds(), st.integers(1, 7))
def test_exactly_the_culprits_are_failed(crowd: tuple[int, set[int]], rows: int) -> None:
    """A step takes at most ``rows`` of those who may run; it dies when a culprit is among them."""
    size, culprits = crowd
    alive, failed, deaths = list(range(size)), set(), 0
    suspects = Suspects()
    while culprits - failed or suspects.active:
        members = [pid for pid in alive if suspects.may_run(pid)][:rows]
        assert members, "nobody may run"
        if not culprits.isdisjoint(members):
            deaths += 1
            convict = suspects.died(members)
            if convict is not None:
                failed.add(convict)
                alive.remove(convict)
            assert deaths <= (math.log2(size) + 4) * len(culprits)
            continue
        for pid in members:
            suspects.cleared(pid)
            alive.remove(pid)  # they finish, so that everybody has a turn
            alive.append(pid)
    assert failed == culprits


@given(st.lists(st.sampled_from(["die", "die between steps", "clear", "leave"]), max_size=60), st.randoms())
def test_there_is_always_somebody_who_may_run(events: list[str], chance) -> None:  # type: ignore[no-untyped-def]
    alive = set(range(12))
    suspects = Suspects()
    for event in events:
        if not alive:
            break
        runners = sorted(pid for pid in alive if suspects.may_run(pid))
        assert runners
        assert not suspects.active or set(suspects.on_trial) <= alive
        one = chance.choice(runners)
        if event == "die":
            convict = suspects.died(runners[: chance.randint(1, len(runners))])
            alive.discard(-1 if convict is None else convict)
        elif event == "die between steps":
            assert suspects.died([]) is None
        elif event == "clear":
            suspects.cleared(one)
        else:
            alive.remove(one)
            suspects.gone(one)
