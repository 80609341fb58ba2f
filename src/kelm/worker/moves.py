"""Where each process is after a step, for the daemon's table: told when it changes, never guessed there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from kelm.sched.plan import Wait
from kelm.wire.messages import Move
from kelm.worker.placing import Placement
from kelm.worker.sequence import Generation

Looked = Mapping[str, Placement]
"""Model that was looked at for the step -> what became of its candidates."""


def moves(generations: Iterable[Generation], ran: Collection[int], looked: Looked) -> Iterator[Move]:
    """Those who are elsewhere than was told last. ``ran``: pids of the step."""
    for generation in generations:
        move = _where(generation, ran, looked)
        if move is not None and move != generation.told:
            generation.told = move
            yield move


def _where(generation: Generation, ran: Collection[int], looked: Looked) -> Move | None:
    """None: as it was. So it is for those of a model that wasn't looked at, and for paused ones, unless somebody took
    their blocks."""
    pid, told = generation.pid, generation.told
    if pid in ran:
        return Move(pid, "running")
    holds = any(one.tables is not None for one in generation.choices.values())
    if generation.paused or generation.model not in looked:
        lost = told is not None and told.state != "queued" and not holds
        return Move(pid, "queued", "blocks") if lost else None
    own = looked[generation.model].waits
    wants: Wait = next((own[one.id] for one in generation.choices.values() if one.id in own), "row")
    return Move(pid, "parked" if holds else "queued", wants)
