"""The docstring's example, step by step."""

from __future__ import annotations

from kelm.kernel.suspects import Suspects


def test_halves_then_alone_twice() -> None:
    suspects = Suspects()
    assert suspects.may_run(99) and not suspects.active
    assert suspects.died(range(8)) is None
    assert suspects.on_trial == (0, 1, 2, 3) and not suspects.may_run(99)
    suspects.died([0, 1, 2, 3])
    assert suspects.on_trial == (0, 1)
    assert not suspects.cleared(0)
    assert suspects.cleared(1)
    assert suspects.on_trial == (2, 3)
    suspects.died([2, 3])
    assert suspects.on_trial == (2,)
    assert suspects.died([2]) is None
    assert suspects.on_trial == (2,)
    assert suspects.died([2]) == 2
    assert suspects.on_trial == (3,)
    suspects.gone(3)
    assert suspects.on_trial == (4, 5, 6, 7)


def test_a_death_alone_is_forgotten_when_it_gets_further() -> None:
    suspects = Suspects()
    for _ in range(5):
        assert suspects.died([1]) is None
        assert suspects.cleared(1)
    assert not suspects.active


def test_a_death_outside_of_a_step_changes_nothing() -> None:
    suspects = Suspects()
    suspects.died([1, 2, 3, 4])
    assert suspects.died([]) is None
    assert suspects.on_trial == (1, 2)
    assert suspects.died([9]) is None  # not one of those on trial
    assert suspects.on_trial == (1, 2)


def test_only_the_members_of_the_step_are_looked_into() -> None:
    suspects = Suspects()
    suspects.died(range(6))
    assert suspects.on_trial == (0, 1, 2)
    suspects.died([1])
    assert suspects.on_trial == (1,)
    assert suspects.cleared(1)
    assert suspects.on_trial == (0, 2)
