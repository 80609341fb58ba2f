"""sched/: the step plan, victims and turns, on plain data."""

from kelm.sched.plan import Budget, Candidate, Grant, Running, plan
from kelm.sched.turns import Holder, rotation, victim

WIDE = Budget(tokens=100, sequences=8, logit_rows=100, free_bytes=1000)


def test_decode_rows_come_first_then_arrival() -> None:
    candidates = [Candidate(1, 60), Candidate(2, 1), Candidate(3, 50), Candidate(4, 1)]
    assert plan(candidates, WIDE).grants == [Grant(1, 60), Grant(2, 1), Grant(3, 38), Grant(4, 1)]


def test_a_long_prompt_is_cut_to_the_budget() -> None:
    assert plan([Candidate(1, 5000)], WIDE).grants == [Grant(1, 100)]


def test_no_more_sequences_than_the_step_has_rows() -> None:
    planned = plan([Candidate(i, 1) for i in range(20)], WIDE)
    assert [grant.seq for grant in planned.grants] == list(range(8))
    assert planned.waits == dict.fromkeys(range(8, 20), "row")


def test_admission_leaves_room_for_those_who_run() -> None:
    tight = Budget(100, 8, 100, free_bytes=30, running=(Running(0, sequences=1, held_bytes=500, short_bytes=10),))
    waiting = plan([Candidate(2, 5, need_bytes=21)], tight)
    assert (waiting.grants, waiting.waits) == ([], {2: "blocks"})
    assert plan([Candidate(2, 5, need_bytes=20)], tight).grants == [Grant(2, 5)]


def test_nobody_passes_a_sequence_that_waits_for_room() -> None:
    tight = Budget(100, 8, 100, free_bytes=30, running=(Running(0, 1, 500, 0),))
    assert plan([Candidate(2, 5, need_bytes=40), Candidate(3, 5, need_bytes=1)], tight).grants == []


def test_with_nobody_running_the_first_is_admitted_whatever_it_needs() -> None:
    empty = Budget(tokens=100, sequences=8, logit_rows=100, free_bytes=30)
    candidates = [Candidate(2, 5, need_bytes=40), Candidate(3, 5, need_bytes=1)]
    assert plan(candidates, empty).grants == [Grant(2, 5)]


def test_logit_rows_bound_prompt_scoring() -> None:
    few = Budget(tokens=100, sequences=8, logit_rows=10, free_bytes=1000)
    candidates = [Candidate(1, 50, every_row=True), Candidate(2, 50, every_row=True), Candidate(3, 50)]
    assert plan(candidates, few).grants == [Grant(1, 10), Grant(3, 50)]


def test_victim_is_paused_else_latest_and_never_earlier() -> None:
    holders = [Holder(1), Holder(5), Holder(9)]
    assert victim(holders, Holder(5)) == 9
    assert victim(holders, Holder(9)) is None
    assert victim([Holder(1, paused=True), *holders[1:]], Holder(9)) == 1
    assert victim([Holder(5)], Holder(5)) is None


def test_rotation_starts_after_the_last() -> None:
    assert rotation(["a", "b", "c"], None) == ["a", "b", "c"]
    assert rotation(["a", "b", "c"], "b") == ["c", "a", "b"]
    assert rotation(["a", "b"], "gone") == ["a", "b"]
