"""Which ops threads run without waiting for each other: consecutive ones on rows alone, and on the same rows."""

from __future__ import annotations

from kelm.models.graph.ops import Graph, Kind, Op


def phases(graph: Graph, *, together: bool = True) -> list[int]:
    """The number of each op's phase, rising. Not ``together``: each its own."""
    numbers: list[int] = []
    for number, op in enumerate(graph.ops):
        before = graph.ops[number - 1] if number else None
        joins = together and before is not None and _follows(graph, before, op)
        numbers.append((numbers[-1] if numbers else -1) + (not joins))
    return numbers


def _follows(graph: Graph, before: Op, op: Op) -> bool:
    if op.alone or before.alone:
        return False
    if op.kind == Kind.PICK:  # reads other rows than it writes
        return before.kind == Kind.PICK
    return graph.buffers[op.out].picked == graph.buffers[before.out].picked
