"""The partition of work over unequal nodes is optimal: against closed form, brute force and SciPy's own solver."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from kelm.cluster.placement import Costs, Node, Plan, Work, divide, split_layers
from kelm.errors import InvalidRequest, OutOfMemory

POWER = st.floats(0.1, 50)
AMOUNT = st.floats(0.01, 30)


def _nodes(powers: list[float], memory: float = math.inf) -> list[Node]:
    return [Node(name=f"n{i}", power=p, memory_bytes=memory) for i, p in enumerate(powers)]


def test_the_known_example() -> None:
    plan = divide(Work(compute=10, data=20), _nodes([8, 4, 4, 2]), Costs(compute=1, communication=0.1))
    assert plan.seconds == pytest.approx(2 / 3, rel=1e-9)
    assert plan.uniform_s == pytest.approx(1.5)
    assert [p.share for p in plan.portions] == pytest.approx([4 / 9, 2 / 9, 2 / 9, 1 / 9])
    assert "0.6667" in plan.table() and "44.4%" in plan.table()


@given(st.lists(POWER, min_size=1, max_size=8), AMOUNT, AMOUNT)
def test_without_limits_every_node_ends_at_the_same_time(powers: list[float], compute: float, data: float) -> None:
    plan = divide(Work(compute=compute, data=data), _nodes(powers))
    assert plan.seconds == pytest.approx((compute + data) / sum(powers), rel=1e-6)
    assert plan.seconds <= plan.uniform_s * (1 + 1e-9)


def test_memory_limits_bind_and_the_rest_goes_elsewhere() -> None:
    nodes = [Node(name="fast", power=9, memory_bytes=30), Node(name="slow", power=1)]
    plan = divide(Work(compute=10, memory_bytes=100), nodes)
    assert [p.share for p in plan.portions] == pytest.approx([0.3, 0.7])
    assert plan.portions[0].memory_bytes == pytest.approx(30)
    with pytest.raises(OutOfMemory, match="100"):
        divide(Work(compute=10, memory_bytes=100), _nodes([1, 1], memory=49))


LAYER = st.builds(Work, compute=AMOUNT, data=AMOUNT, memory_bytes=st.floats(1, 10))


def _brute_force(work: list[Work], nodes: list[Node]) -> float:
    best = math.inf
    for cuts in itertools.combinations_with_replacement(range(len(work) + 1), len(nodes) - 1):
        bounds = [0, *cuts, len(work)]
        times = [_seconds(work[a:b], node) for node, (a, b) in zip(nodes, itertools.pairwise(bounds), strict=True)]
        best = min(best, max(times))
    return best


def _seconds(run: list[Work], node: Node) -> float:
    if sum(w.memory_bytes for w in run) > node.memory_bytes:
        return math.inf
    return (sum(w.compute for w in run) + (run[-1].data if run else 0)) / node.power


@settings(max_examples=60, deadline=None)
@given(st.lists(LAYER, min_size=1, max_size=7), st.lists(POWER, min_size=1, max_size=4), st.floats(8, 60))
def test_layers_against_brute_force(work: list[Work], powers: list[float], memory: float) -> None:
    nodes = _nodes(powers, memory)
    best = _brute_force(work, nodes)
    if math.isinf(best):
        with pytest.raises(OutOfMemory):
            split_layers(work, nodes)
        return
    plan = split_layers(work, nodes)
    assert plan.seconds == pytest.approx(best)
    assert [n for p in plan.portions for n in p.layers] == list(range(len(work)))
    assert all(p.memory_bytes <= memory for p in plan.portions)


def test_layers_against_the_mixed_integer_solver() -> None:
    rng = np.random.default_rng(7)
    work = [Work(compute=float(c), data=float(d)) for c, d in rng.uniform(0.5, 3, (24, 2))]
    nodes = _nodes([5.0, 2.0, 3.0])
    assert split_layers(work, nodes).seconds == pytest.approx(_milp(work, nodes), rel=1e-4)


def _milp(work: list[Work], nodes: list[Node]) -> float:
    """One binary for each (node, first layer, end): flow from layer 0 to the end through the nodes in order."""
    depth, count = len(work), len(nodes)
    runs = [(i, a, b) for i in range(count) for a in range(depth + 1) for b in range(a, depth + 1)]
    flow = np.zeros((count * (depth + 1), len(runs) + 1))
    done = np.zeros((count, len(runs) + 1))
    for column, (i, a, b) in enumerate(runs):
        flow[i * (depth + 1) + a, column] += 1
        if i + 1 < count:
            flow[(i + 1) * (depth + 1) + b, column] -= 1
        elif b != depth:
            done[i, column] = 1e6
        done[i, column] += _seconds(work[a:b], nodes[i])
    done[:, -1] = -1
    source = np.zeros(len(flow))
    source[0] = 1
    result = milp(
        [*np.zeros(len(runs)), 1.0],
        constraints=[LinearConstraint(flow, source, source), LinearConstraint(done, -np.inf, 0)],
        bounds=Bounds(0, [*np.ones(len(runs)), np.inf]),
        integrality=[*np.ones(len(runs)), 0],
    )
    return float(result.fun)


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan, math.inf])
def test_a_node_without_power_is_refused(power: float) -> None:
    with pytest.raises(InvalidRequest, match="n0"):
        divide(Work(compute=1), _nodes([power]))
    with pytest.raises(InvalidRequest, match="at least one"):
        divide(Work(compute=1), [])


def test_an_even_split_that_does_not_fit_takes_for_ever() -> None:
    plan: Plan = divide(Work(compute=1, memory_bytes=10), [*_nodes([1.0], 3.0), Node(name="big", power=1)])
    assert math.isinf(plan.uniform_s) and math.isfinite(plan.seconds)
