"""Behind the last layer's attention, a row concerns nobody but itself: what follows is made for the rows whose logits
are wanted, and for no others.

    attention, out, add, norm, up, gate, down, add, pick         becomes
    attention, pick, pick, out, add, norm, up, gate, down, add
"""

from __future__ import annotations

from dataclasses import replace

from kelm.models.graph.ops import Buffer, Graph, Kind, Op


def narrow(graph: Graph) -> Graph:
    pick = next(number for number, op in enumerate(graph.ops) if op.kind == Kind.PICK)
    start = max(number for number, op in enumerate(graph.ops) if op.kind == Kind.ATTENTION) + 1
    behind = graph.ops[start:pick]
    names = {name: f"{name}.picked" for op in behind for name in op.buffers}
    names[graph.ops[pick].x] = graph.ops[pick].out
    there = {name for op in graph.ops[:start] for name in op.buffers}
    picks = [
        Op(Kind.PICK, x=name, out=short, width=graph.buffers[name].width)
        for name, short in names.items()
        if name in there
    ]
    buffers = dict(graph.buffers)
    for name, short in names.items():
        buffers[short] = Buffer(graph.buffers[name].width, picked=True)
    ops = (*graph.ops[:start], *picks, *(op.renamed(names) for op in behind), *graph.ops[pick + 1 :])
    return replace(graph, ops=ops, buffers=buffers).pruned()
