"""Who computes how much: work split over unequal nodes so that the slowest one is done as early as possible.

Divisible work (batches, rows, documents) is a linear programme over shares x_i, solved with HiGHS through SciPy;
layered work (the layers of a model, each whole, in order) is its integer sibling over contiguous runs, small enough
for an exact dynamic programme (a test compares it with SciPy's mixed-integer solver):

    minimise T   subject to   compute_i + communication_i <= T  for every node i
                              memory_i <= limit_i,   everything placed exactly once

with  compute_i = compute_cost * work_i / P_i  and  communication_i = communication_cost * data_i / B_i,  where P_i is
a node's computing power and B_i its bandwidth (as P_i, unless given). Pure functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from scipy.optimize import linprog

from kelm.errors import InvalidRequest, OutOfMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine. Powers in units of work (and of data) a second."""

    name: str
    power: float
    bandwidth: float | None = None
    """None: as ``power``."""
    memory_bytes: float = math.inf

    @property
    def link(self) -> float:
        return self.power if self.bandwidth is None else self.bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a unit of computing and a unit of communication cost, before they are divided by a node's powers."""

    compute: float = 1.0
    communication: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Computing, data to be moved and memory: of the whole (divisible) or of one layer (layered)."""

    compute: float
    data: float = 0.0
    memory_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Portion:
    """One row of the plan."""

    node: Node
    share: float
    """Part of the whole's computing, 0 to 1."""
    layers: range
    """Empty for divisible work and for a node that gets nothing."""
    compute_s: float
    communication_s: float
    memory_bytes: float

    @property
    def seconds(self) -> float:
        return self.compute_s + self.communication_s


@dataclass(frozen=True, slots=True)
class Plan:
    portions: tuple[Portion, ...]
    """In the order of the nodes given."""
    uniform_s: float
    """What an equal split would take; inf where it does not fit."""

    @property
    def seconds(self) -> float:
        """When the slowest node is done."""
        return max(p.seconds for p in self.portions)

    def table(self) -> str:
        """The plan as aligned text, the slowest node marked."""
        head = ("node", "share", "layers", "compute s", "comm s", "total s", "memory")
        rows = [head, *(self._row(p) for p in self.portions)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, f"done after {self.seconds:.4g} s; an equal split takes {self.uniform_s:.4g} s"])

    def _row(self, p: Portion) -> tuple[str, ...]:
        layers = f"{p.layers.start}-{p.layers.stop - 1}" if p.layers else "-"
        slowest = "*" if math.isclose(p.seconds, self.seconds, rel_tol=1e-9) else " "
        compute, communication, total = (f"{value:.4g}" for value in (p.compute_s, p.communication_s, p.seconds))
        return (p.node.name, f"{p.share:.1%}", layers, compute, communication, total + slowest, f"{p.memory_bytes:.3g}")


def divide(work: Work, nodes: Sequence[Node], costs: Costs | None = None) -> Plan:
    """Shares of divisible work. Memory is proportional to the share.

    Raises InvalidRequest on a node without power, OutOfMemory when all nodes together are too small.
    """
    _check(nodes)
    costs = costs or Costs()
    unit_s = np.array([_seconds(work, node, costs) for node in nodes])
    limits = np.array([node.memory_bytes for node in nodes])
    most = np.minimum(1.0, limits / work.memory_bytes) if work.memory_bytes else np.ones(len(nodes))
    if most.sum() < 1 - 1e-12:
        _refuse(work.memory_bytes, float(limits.sum()))
    count = len(nodes)
    result = linprog(
        c=[*np.zeros(count), 1.0],
        A_ub=np.column_stack([np.diag(unit_s), -np.ones(count)]),
        b_ub=np.zeros(count),
        A_eq=[[*np.ones(count), 0.0]],
        b_eq=[1.0],
        bounds=[*((0.0, m) for m in most), (0.0, None)],
    )
    assert result.x is not None, result.message
    portions = tuple(
        _portion(node, _part(work, float(share)), float(share), range(0), costs)
        for node, share in zip(nodes, result.x[:count], strict=True)
    )
    fits = bool((most >= 1 / count - 1e-12).all())
    return Plan(portions, float(unit_s.max() / count) if fits else math.inf)


def split_layers(work: Sequence[Work], nodes: Sequence[Node], costs: Costs | None = None) -> Plan:
    """Contiguous runs of layers, in the order of the nodes (a node may get none).

    A layer's ``data`` is what it hands on; it is paid by the node that computes the last layer of a run. Raises
    InvalidRequest, and OutOfMemory when no assignment of whole layers fits.
    """
    _check(nodes)
    costs = costs or Costs()
    total = sum(layer.compute for layer in work) or 1.0
    portions = []
    for node, run in zip(nodes, _runs(work, nodes, costs), strict=True):
        joined = _joined([work[n] for n in run])
        portions.append(_portion(node, joined, joined.compute / total, run, costs))
    bounds = [i * len(work) // len(nodes) for i in range(len(nodes) + 1)]
    even = [
        _run_seconds(work[a:b], node, costs) for node, (a, b) in zip(nodes, itertools.pairwise(bounds), strict=True)
    ]
    return Plan(tuple(portions), max(even))


def _part(work: Work, share: float) -> Work:
    return Work(compute=work.compute * share, data=work.data * share, memory_bytes=work.memory_bytes * share)


def _runs(work: Sequence[Work], nodes: Sequence[Node], costs: Costs) -> list[range]:
    """The best runs, exactly, in O(nodes x layers^2).

    done[i, b] is the least time in which the first i nodes can do the first b layers.
    """
    depth = len(work)
    done = np.full((len(nodes) + 1, depth + 1), np.inf)
    done[0, 0] = 0.0
    start = np.zeros((len(nodes) + 1, depth + 1), dtype=int)
    for i, node in enumerate(nodes, 1):
        for end in range(depth + 1):
            times = [max(done[i - 1, a], _run_seconds(work[a:end], node, costs)) for a in range(end + 1)]
            start[i, end] = int(np.argmin(times))
            done[i, end] = times[start[i, end]]
    if not np.isfinite(done[-1, depth]):
        _refuse(sum(layer.memory_bytes for layer in work), sum(node.memory_bytes for node in nodes))
    ends = [depth]
    for i in range(len(nodes), 0, -1):
        ends.append(int(start[i, ends[-1]]))
    ends.reverse()
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def _run_seconds(run: Sequence[Work], node: Node, costs: Costs) -> float:
    """Compute of every layer and communication of the last one's output; inf where memory does not reach."""
    if not run:
        return 0.0
    if sum(layer.memory_bytes for layer in run) > node.memory_bytes:
        return math.inf
    return _seconds(_joined(run), node, costs)


def _joined(run: Sequence[Work]) -> Work:
    """A run as one piece of work: it hands on what its last layer hands on."""
    return Work(
        compute=sum(layer.compute for layer in run),
        data=run[-1].data if run else 0.0,
        memory_bytes=sum(layer.memory_bytes for layer in run),
    )


def _seconds(work: Work, node: Node, costs: Costs) -> float:
    return costs.compute * work.compute / node.power + costs.communication * work.data / node.link


def _portion(node: Node, work: Work, share: float, run: range, costs: Costs) -> Portion:
    return Portion(
        node=node,
        share=share,
        layers=run,
        compute_s=costs.compute * work.compute / node.power,
        communication_s=costs.communication * work.data / node.link,
        memory_bytes=work.memory_bytes,
    )


def _check(nodes: Sequence[Node]) -> None:
    if not nodes:
        raise InvalidRequest("nodes: at least one is needed", param="nodes")
    for node in nodes:
        if not (node.power > 0 and node.link > 0 and math.isfinite(node.power) and math.isfinite(node.link)):
            raise InvalidRequest(f"node {node.name!r}: power and bandwidth must be positive numbers", param="nodes")


def _refuse(wanted: float, there: float) -> NoReturn:
    raise OutOfMemory(
        f"the work needs {wanted:.4g} bytes in pieces that these nodes cannot hold (together {there:.4g}); "
        "add a node or memory"
    )
