"""Where buffers lie in the memory of a step, in floats for each row of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from kelm.models.graph.ops import LOGITS, Graph

LINE = 16
"""Floats; every row starts on one."""


def pitch(width: int) -> int:
    return -(-width // LINE) * LINE


def lay_out(graph: Graph, phases: Sequence[int], *, shared: bool = True) -> dict[str, int]:
    """Offsets of all buffers but the caller's. ``shared``: two that are never needed at once may overlap. The widest
    are placed first, each as low as it fits.

    ``phases``: of each op (phases.py). In a phase one thread is an op further than another, so a buffer is needed for
    whole phases.
    """
    lives = {name: (phases[min(uses)], phases[max(uses)]) for name in graph.buffers if (uses := list(graph.uses(name)))}
    placed: dict[str, int] = {}
    for name in sorted(lives, key=lambda name: (-graph.buffers[name].width, lives[name])):
        if name == LOGITS:
            continue
        size = pitch(graph.buffers[name].width)
        others = sorted(
            (placed[other], placed[other] + pitch(graph.buffers[other].width))
            for other in placed
            if not shared or (lives[other][0] <= lives[name][1] and lives[name][0] <= lives[other][1])
        )
        at = 0
        for begin, end in others:
            if at + size <= begin:
                break
            at = max(at, end)
        placed[name] = at
    return placed
