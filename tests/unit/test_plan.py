"""sched/: the step plan, victims and turns, on plain data."""

from kelm.sched.eviction import Resident, to_evict
from kelm.sched.plan import Budget, Candidate, Grant, Running, plan
from kelm.sched.shares import Share
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


def test_who_holds_blocks_and_gets_no_row_waits_for_one() -> None:
    """The earlier priority takes the row of one that runs, at once."""
    narrow = Budget(100, 2, 100, free_bytes=1000, running=(Running(0, 2, 50, 10),))
    planned = plan([Candidate(1, 1), Candidate(2, 1), Candidate(3, 7, need_bytes=20, priority=-1)], narrow)
    assert planned.grants == [Grant(3, 7), Grant(1, 1)]
    assert planned.waits == {2: "row"}


def test_an_earlier_priority_counts_the_blocks_of_later_ones_as_its_own() -> None:
    running = (Running(0, 1, held_bytes=80, short_bytes=5), Running(2, 1, held_bytes=60, short_bytes=5))
    full = Budget(100, 8, 100, free_bytes=10, running=running)
    for priority, most in ((-1, 150), (0, 65), (1, 65), (2, 0), (3, 0)):
        fits = plan([Candidate(9, 5, need_bytes=most or 1, priority=priority)], full)
        assert bool(fits.grants) == bool(most), priority
        if priority >= 0:
            over = plan([Candidate(9, 5, need_bytes=most + 1, priority=priority)], full)
            assert over.waits == {9: "blocks"}
    alone = plan([Candidate(9, 5, need_bytes=10_000, priority=-1)], full)
    assert alone.grants, "all others would give way: it is first, and always finishes"


def test_a_tenant_that_waits_for_room_keeps_all_others_waiting_for_it() -> None:
    tight = Budget(100, 8, 100, free_bytes=30, running=(Running(0, 1, 500, 0),))
    shares = {0: Share(1, 10.0), 1: Share(1, 0.0)}
    candidates = [Candidate(2, 5, need_bytes=10, share=0), Candidate(3, 5, need_bytes=40, share=1)]
    assert plan(candidates, tight, shares).waits == {2: "blocks", 3: "blocks"}
    assert [grant.seq for grant in plan(candidates, tight, {1: Share(1, 20.0)}).grants] == [2]


def test_victims_are_those_of_later_priority_first_and_never_an_earlier_one() -> None:
    holders = [Holder(1, priority=5), Holder(2, priority=0), Holder(9, priority=0), Holder(4, priority=-3)]
    assert victim(holders, Holder(9, priority=0)) == 1
    assert victim(holders[1:], Holder(2, priority=0)) == 9
    assert victim(holders[1:], Holder(9, priority=0)) is None
    assert victim(holders, Holder(4, priority=-3)) == 1
    paused = Holder(4, priority=-3, paused=True)
    assert victim([*holders[:3], paused], Holder(1, priority=5)) == 4


def test_the_first_of_all_can_take_everything_from_the_others() -> None:
    holders = [Holder(seq, priority) for seq, priority in ((3, 1), (7, 0), (5, 0), (1, 2))]
    first = min(holders, key=lambda one: one.place)
    while (worst := victim(holders, first)) is not None:
        holders = [one for one in holders if one.seq != worst]
    assert holders == [first] == [Holder(5, 0)]


def resident(key: str, used_s: float, size: int = 10, *, busy: bool = False, base: str | None = None) -> Resident:
    return Resident(key, size, used_s, busy, base)


def test_models_go_least_recently_used_first_until_it_is_enough() -> None:
    models = [resident("new", 9), resident("old", 1), resident("older", 0), resident("busy", 0, busy=True)]
    assert to_evict(models, 1) == ["older"]
    assert to_evict(models, 11) == ["older", "old"]
    assert to_evict(models, 30) == ["older", "old", "new"]
    assert to_evict(models, 31) is None, "nobody goes for nothing"
    assert to_evict(models, 0) == []


def test_a_base_goes_after_those_that_share_its_weights_and_stays_under_a_busy_one() -> None:
    base, variant = resident("base", 0), resident("variant", 5, size=1, base="base")
    assert to_evict([base, variant], 1) == ["variant"]
    assert to_evict([base, variant], 5) == ["variant", "base"]
    assert to_evict([base, resident("variant", 5, size=1, busy=True, base="base")], 1) is None
