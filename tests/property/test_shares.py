"""Weighted shares of the step plan: whoever waits gets what its weight is worth, and nothing is left idle for it.

A toy of the worker: it carries plans out on numbers, so thousands of steps take a second.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.sched.plan import Budget, Candidate, Plan, plan
from kelm.sched.shares import Share, content

ROOM = 10**9


@dataclass
class Toy:
    """Sequences as [tenant, pending, tokens still to generate]."""

    tokens: int
    rows: int
    shares: dict[int, Share]
    live: dict[int, list[int]] = field(default_factory=dict)
    priority: dict[int, int] = field(default_factory=dict)
    served: dict[int, int] = field(default_factory=dict)
    _next: int = 0

    def submit(self, tenant: int, prompt: int, answer: int, priority: int = 0) -> int:
        self.live[self._next] = [tenant, prompt, answer]
        self.priority[self._next] = priority
        self._next += 1
        return self._next - 1

    def count(self, tenant: int) -> int:
        return sum(owner == tenant for owner, _, _ in self.live.values())

    def candidates(self) -> list[Candidate]:
        return [Candidate(seq, one[1], share=one[0], priority=self.priority[seq]) for seq, one in self.live.items()]

    def step(self) -> Plan:
        planned = plan(self.candidates(), Budget(self.tokens, self.rows, ROOM, ROOM), self.shares)
        owners = {seq: one[0] for seq, one in self.live.items()}
        for grant in planned.grants:
            self._advance(grant.seq, grant.tokens)
        served = {owners[grant.seq] for grant in planned.grants}
        self.shares |= content(self.shares, served, {owners[seq] for seq in planned.waits})
        return planned

    def _advance(self, seq: int, tokens: int) -> None:
        one = self.live[seq]
        self.shares[one[0]] = self.shares[one[0]].charged(tokens)
        self.served[one[0]] = self.served.get(one[0], 0) + tokens
        one[1] -= tokens
        if one[1] == 0:
            one[2] -= 1
            one[1] = 1
            if one[2] <= 0:
                del self.live[seq]


def backlogged(rng: random.Random) -> tuple[Toy, dict[int, tuple[int, int]]]:
    """Tenants of any weight and kind of request, and how long their prompts and answers may be."""
    tokens = rng.choice([16, 64, 512])
    rows = min(tokens, rng.choice([1, 2, 4, 8, 16]))
    shares = {tenant: Share(rng.choice([1, 1, 2, 3, 7])) for tenant in range(rng.randint(2, 4))}
    lengths = {tenant: (rng.choice([1, 5, 50, 3 * tokens]), rng.choice([1, 5, 60])) for tenant in shares}
    return Toy(tokens, rows, shares), lengths


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
def test_the_gap_between_two_who_wait_is_bounded(seed: int) -> None:
    """|counter - counter| <= (step tokens + 1) x (1 / weight + 1 / weight), after any step, whatever they ask for."""
    rng = random.Random(seed)
    toy, lengths = backlogged(rng)
    for _ in range(150):
        for tenant, (prompt, answer) in lengths.items():
            while toy.count(tenant) < toy.rows + 1:  # more than fit, so everybody waits
                toy.submit(tenant, rng.randint(1, prompt), rng.randint(1, answer))
        toy.step()
        for one in toy.shares.values():
            for other in toy.shares.values():
                bound = (toy.tokens + 1) * (1 / one.weight + 1 / other.weight)
                assert one.counter - other.counter <= bound


@pytest.mark.parametrize("weights", [(2, 1), (1, 1), (5, 2), (1, 9)])
def test_served_tokens_follow_the_weights_within_two_percent(weights: tuple[int, int]) -> None:
    rng = random.Random(7)
    toy = Toy(tokens=64, rows=4, shares=dict(enumerate(map(Share, weights))))
    for _ in range(4000):
        for tenant in (0, 1):
            while toy.count(tenant) < 5:
                toy.submit(tenant, rng.randint(1, 40), rng.randint(1, 60))
        toy.step()
    share = toy.served[0] / sum(toy.served.values())
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.02)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_step_is_within_its_budget_and_nothing_is_idle(seed: int) -> None:
    rng = random.Random(seed)
    shares = {tenant: Share(rng.randint(1, 9), rng.uniform(0, 500)) for tenant in range(4)}
    budget = Budget(rng.choice([16, 64]), rng.choice([1, 3, 16]), ROOM, ROOM)
    candidates = [
        Candidate(seq, rng.choice([1, 1, 2, 30, 200]), share=rng.randrange(4), priority=rng.choice([-1, 0, 0, 5]))
        for seq in rng.sample(range(1000), rng.randint(1, 30))
    ]
    planned = plan(candidates, budget, shares)
    pending = {one.seq: one.pending for one in candidates}
    given = {grant.seq: grant.tokens for grant in planned.grants}
    assert len(given) == len(planned.grants) <= budget.sequences
    assert all(1 <= tokens <= pending[seq] for seq, tokens in given.items())
    assert given.keys() | planned.waits.keys() == pending.keys() and not given.keys() & planned.waits.keys()
    used = sum(given.values())
    assert used <= budget.tokens
    full = used == budget.tokens
    assert full or all(tokens == pending[seq] for seq, tokens in given.items()), "a prompt was cut for nothing"
    assert full or len(given) == min(budget.sequences, len(candidates)), "a row was idle"
    # a shuffled input gives the same plan: it is a function of what stands there, not of the order
    assert plan(rng.sample(candidates, len(candidates)), budget, shares) == planned


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
def test_rows_go_by_priority_first(seed: int) -> None:
    rng = random.Random(seed)
    shares = {tenant: Share(rng.randint(1, 9), rng.uniform(0, 500)) for tenant in range(3)}
    candidates = [
        Candidate(seq, 1, share=rng.randrange(3), priority=rng.randint(-3, 3)) for seq in range(rng.randint(1, 40))
    ]
    planned = plan(candidates, Budget(512, 8, ROOM, ROOM), shares)
    priority = {one.seq: one.priority for one in candidates}
    got, waiting = [priority[one.seq] for one in planned.grants], [priority[seq] for seq in planned.waits]
    assert got == sorted(got)
    assert not waiting or max(got) <= min(waiting)


def test_one_who_comes_back_from_idle_gets_its_share_and_no_more() -> None:
    """Without the lift it would have all rows until it had caught up with what it never asked for."""
    toy = Toy(tokens=64, rows=4, shares={0: Share(), 1: Share()})

    def run(steps: int, *tenants: int) -> None:
        for _ in range(steps):
            for tenant in tenants:
                while toy.count(tenant) < 5:
                    toy.submit(tenant, 3, 20)
            toy.step()

    run(500, 0)
    before = dict(toy.served)
    assert toy.shares[1].counter < toy.shares[0].counter
    toy.shares[1] = toy.shares[1].lifted([toy.shares[0]], floor=0.0)
    run(500, 0, 1)
    gained = toy.served[0] - before[0]
    assert toy.served[1] / (gained + toy.served[1]) == pytest.approx(0.5, abs=0.02)


def test_the_lift_never_takes_from_anybody_and_knows_the_last_one_who_left() -> None:
    assert Share(2, 10.0).lifted([Share(1, 4.0), Share(1, 7.0)], floor=99.0) == Share(2, 10.0)
    assert Share(2, 1.0).lifted([Share(1, 4.0), Share(1, 7.0)], floor=99.0) == Share(2, 4.0)
    assert Share(2, 1.0).lifted([], floor=5.0) == Share(2, 5.0)


def test_one_who_wants_little_saves_nothing_up() -> None:
    """One row all the time, beside somebody who waits; then it wants all: half of the rows are its, not all."""
    toy = Toy(tokens=64, rows=4, shares={0: Share(), 1: Share()})
    for _ in range(600):
        while toy.count(0) < 6:
            toy.submit(0, 3, 20)
        while toy.count(1) < 1:
            toy.submit(1, 3, 20)
        toy.step()
    assert toy.served[1] < 0.4 * toy.served[0]
    before = dict(toy.served)
    for _ in range(200):
        for tenant in (0, 1):
            while toy.count(tenant) < 6:
                toy.submit(tenant, 3, 20)
        toy.step()
    gained = {tenant: toy.served[tenant] - before[tenant] for tenant in (0, 1)}
    assert gained[1] / sum(gained.values()) == pytest.approx(0.5, abs=0.03)


def test_where_nobody_waited_nobody_owes_anybody() -> None:
    shares = {0: Share(1, 900.0), 1: Share(1, 5.0), 2: Share(1, 2.0)}
    assert content(shares, served=[0, 1], waiting=[]) == {0: Share(1, 900.0), 1: Share(1, 900.0)}
    assert content(shares, served=[0, 1], waiting=[1, 2]) == {0: Share(1, 900.0)}
    assert content(shares, served=[0, 2], waiting=[1]) == {0: Share(1, 900.0), 2: Share(1, 5.0)}


def test_rows_that_stream_get_their_token_beside_a_long_prompt() -> None:
    """Own tenant's, another tenant's that is not far ahead, and a later priority's within its bound."""
    budget = Budget(64, 16, ROOM, ROOM)
    prompt = Candidate(0, 5000)
    own = [Candidate(seq, 1) for seq in range(1, 8)]
    assert {g.seq: g.tokens for g in plan([prompt, *own], budget, {}).grants} == {0: 57} | dict.fromkeys(range(1, 8), 1)
    others = [replace(one, share=1) for one in own]
    near = {0: Share(1, 0.0), 1: Share(1, 124.0)}  # the prompt's chunk makes it 64 and 124
    rows = plan([prompt, *others], budget, near).grants[1:]
    assert [g.seq for g in rows] == [1, 2, 3, 4, 5], "until it is more than 64 ahead"
    far = {0: Share(1, 0.0), 1: Share(1, 129.0)}
    assert [g.seq for g in plan([prompt, *others], budget, far).grants] == [0]
    later = [replace(one, priority=3, seq=one.seq + 10 * k) for k in range(2) for one in own]
    assert sum(g.seq > 0 for g in plan([prompt, *later], budget, {}).grants) == 64 // 8
