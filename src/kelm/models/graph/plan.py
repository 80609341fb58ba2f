"""The plan of a step: a graph after its passes, and as the arrays that the extension takes (ops/step.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelm.models.graph.build import Additions, Constants, build
from kelm.models.graph.fuse import fuse_gates, fuse_sums
from kelm.models.graph.memory import lay_out, pitch
from kelm.models.graph.narrow import narrow
from kelm.models.graph.ops import ACTIVATIONS, LOGITS, Graph, Op
from kelm.models.graph.phases import phases
from kelm.models.spec import DecoderSpec

PASSES = ("fuse_gates", "fuse_sums", "narrow", "phases", "memory")
"""Each may be left out; logits keep their bits."""

_REWRITES = {"fuse_gates": fuse_gates, "fuse_sums": fuse_sums, "narrow": narrow}


@dataclass(frozen=True, slots=True)
class Plan:
    """``ops``, ``scalars``, ``buffers``: rows as module_step.cpp reads them; ``matrices`` and ``vectors``: the slots
    that ops name by number; ``constants``: vectors that are not a checkpoint's."""

    graph: Graph
    ops: NDArray[np.int64]
    scalars: NDArray[np.float32]
    buffers: NDArray[np.int64]
    matrices: tuple[str, ...]
    vectors: tuple[str, ...]
    constants: Constants


def make_plan(
    spec: DecoderSpec,
    passes: tuple[str, ...] = PASSES,
    embedding_scale: float | None = None,
    additions: Additions | None = None,
) -> Plan:
    graph, constants = build(spec, embedding_scale, additions)
    for name, rewrite in _REWRITES.items():
        if name in passes:
            graph = rewrite(graph)
    together = phases(graph, together="phases" in passes)
    offsets = lay_out(graph, together, shared="memory" in passes)
    names = [name for name in graph.buffers if name != LOGITS] + [LOGITS]
    buffers = [[offsets.get(name, 0), _pitch(graph, name), int(graph.buffers[name].picked)] for name in names]
    matrices = tuple(dict.fromkeys(op.matrix for op in graph.ops if op.matrix))
    vectors = tuple(dict.fromkeys(name for op in graph.ops for name in (op.vector, op.other) if name))
    number = _Numbers(*(_numbered(table) for table in (names, matrices, vectors)))
    ops = [_row(op, phase, number) for op, phase in zip(graph.ops, together, strict=True)]
    scalars = [[op.a, op.b] for op in graph.ops]
    return Plan(
        graph,
        np.array(ops, np.int64),
        np.array(scalars, np.float32),
        np.array(buffers, np.int64),
        matrices,
        vectors,
        constants,
    )


def _pitch(graph: Graph, name: str) -> int:
    width = graph.buffers[name].width
    return width if name == LOGITS else pitch(width)


@dataclass(frozen=True, slots=True)
class _Numbers:
    buffers: dict[str, int]
    matrices: dict[str, int]
    vectors: dict[str, int]


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {"": -1} | {name: number for number, name in enumerate(names)}


def _row(op: Op, phase: int, number: _Numbers) -> list[int]:
    """As op_of in module_step.cpp takes them."""
    return [
        op.kind, phase, number.buffers[op.x], op.x_column, number.buffers[op.out], op.out_column,
        op.count, op.width, op.step,
        number.matrices[op.matrix], number.vectors[op.vector], number.vectors[op.other],
        op.group, op.layer, op.window,
        ACTIVATIONS.index(op.activation), op.epilogue,
    ]  # fmt: skip
