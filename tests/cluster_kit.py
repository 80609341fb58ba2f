"""Nodes of a DistributedSystem as processes: forked from one server that has torch in memory already."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from kelm import limits
from kelm.cluster.system import DistributedSystem
from kelm.errors import KelmError

_CONTEXT = mp.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["kelm.cluster.system"])
Scenario = Callable[..., Any]
"""What a node does: called with its system; the result must be picklable."""


@dataclass(frozen=True)
class Outcome:
    """Of one node: its result, or the error that it ended with, or neither when it died."""

    result: Any = None
    error: str = ""
    message: str = ""
    seconds: float = 0.0
    died: bool = False


def together(
    count: int,
    scenario: Scenario,
    at: str | Path,
    *arguments: Any,
    joins: Sequence[tuple[int, int]] = (),
    only: int | None = None,
    **settings: Any,
) -> list[Outcome]:
    """Run ``scenario`` on ``count`` nodes, or on nodes with the (rank, nodes) of ``joins``; what became of each, or of
    ``only`` one: the others are killed then."""
    seats = list(joins) or [(rank, count) for rank in range(count)]
    running: list[tuple[Any, Connection]] = []
    for rank, nodes in seats:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_node, args=(theirs, rank, nodes, at, scenario, arguments, settings))
        process.start()
        theirs.close()
        running.append((process, ours))
    try:
        return [_outcome(*one) for number, one in enumerate(running) if only in (None, number)]
    finally:
        for process, _ in running:
            process.kill()
            process.join()


def _outcome(process: Any, pipe: Connection) -> Outcome:
    assert wait([pipe, process.sentinel], timeout=60), "a node said nothing for a minute"
    try:
        return pipe.recv() if pipe.poll(0) else Outcome(died=True)
    except EOFError:
        return Outcome(died=True)


def _node(
    pipe: Connection, rank: int, nodes: int, at: str | Path, scenario: Scenario, arguments: Any, settings: Any
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    beat_s = settings.pop("beat_s", None)
    if beat_s is not None:
        object.__setattr__(limits.CLUSTER_BEAT_S, "default", beat_s)
    try:
        with DistributedSystem(rank, nodes, at, **settings) as system:
            result = scenario(system, *arguments)
        outcome = Outcome(result, seconds=time.monotonic() - began)
    except KelmError as error:
        outcome = Outcome(error=type(error).__name__, message=error.message, seconds=time.monotonic() - began)
    pipe.send(outcome)
