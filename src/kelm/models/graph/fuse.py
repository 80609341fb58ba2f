"""A product's result is changed before it is written, where only the next op reads it:

up -> gate              one op that writes half as much
out, down -> add        one op that adds to the residual stream
"""

from __future__ import annotations

from dataclasses import replace

from kelm.models.graph.ops import Epilogue, Graph, Kind, Op

_GATES = {Kind.GATE: Epilogue.GATE, Kind.ACTIVATE: Epilogue.ACTIVATE}
_SUMS = {Kind.ADD: Epilogue.ADD}


def fuse_gates(graph: Graph) -> Graph:
    return _fused(graph, _GATES)


def fuse_sums(graph: Graph) -> Graph:
    return _fused(graph, _SUMS)


def _fused(graph: Graph, kinds: dict[Kind, Epilogue]) -> Graph:
    ops: list[Op] = []
    for op in graph.ops:
        before = ops[-1] if ops else None
        if (
            before is not None
            and op.kind in kinds
            and before.kind == Kind.LINEAR
            and before.epilogue == Epilogue.NONE
            and before.out == op.x
            and len(list(graph.uses(op.x))) == 2
        ):
            ops[-1] = replace(before, out=op.out, epilogue=kinds[op.kind], activation=op.activation, width=op.width)
        else:
            ops.append(op)
    return Graph(tuple(ops), graph.buffers).pruned()
