"""Which ops threads run without waiting for each other: consecutive ones that work on rows alone, over the same rows."""

from __future__ import annotations

from kelm.models.graph.ops import Graph, Kind


def phases(graph: Graph, *, together: bool = True) -> list[int]:
    """The number of each op's phase, rising. Not ``together``: each its own."""
    numbers: list[int] = []
    for number, op in enumerate(graph.ops):
        before = graph.ops[number - 1] if number else None
        apart = (
            before is None
            or op.alone
            or before.alone
            or not together
            or Kind.PICK in (op.kind,)  # reads other rows than it writes
            and before.kind != Kind.PICK
            or graph.buffers[op.out].picked != graph.buffers[before.out].picked
        )
        numbers.append((numbers[-1] if numbers else -1) + apart)
    return numbers
