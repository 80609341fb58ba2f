"""The turns: in every round each contender does the same work, another one first each time, alone on the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks import machine
from benchmarks.contenders import Absent, Contender, Target
from benchmarks.record import Facts, Side
from benchmarks.workloads import Workload
from kelm.bench.bandwidth import Bandwidth

WARM_TOKENS = 2
QUIET = 0.05
"""Others that take more than this share of the machine disturb."""
T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(slots=True)
class Seat:
    """A contender that takes part, and its rounds so far."""

    contender: Contender
    facts: Facts
    values: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    held_bytes: int = 0

    def side(self) -> Side:
        return Side(facts=self.facts, values=self.values, held_bytes=self.held_bytes, others=self.others)


@dataclass(slots=True)
class Outcome:
    sides: list[Side]
    bandwidth: list[float]
    absent: dict[str, str]


class Turns:
    """One workload on one target."""

    def __init__(
        self, workload: Workload, target: Target, rounds: int, say: Say = print, patience_s: float = 0
    ) -> None:
        self._workload = workload
        self._target = target
        self._rounds = rounds
        self._say = say
        self._patience_s = patience_s
        self._absent: dict[str, str] = {}

    def play(self, makers: Mapping[str, Callable[[Target], Contender]]) -> Outcome:
        """Everybody up, a warm-up, then the rounds. Raises Absent when nobody of Kelm's takes part."""
        seats: list[Seat] = []
        try:
            for name, make in makers.items():
                self._seat(name, make, seats)
            if not any(seat.facts.ours for seat in seats):
                raise Absent(f"Kelm does not run {self._target.kelm_name}: {self._absent}")
            bandwidth = self._play(seats, self._probe(seats))
            return Outcome([seat.side() for seat in seats], bandwidth, self._absent)
        finally:
            for seat in seats:
                seat.contender.stop()

    def play_anew(self, makers: Mapping[str, Callable[[Target], Contender]]) -> Outcome:
        """A new process in every round, which ends after it; the time counts from its start. The first round makes
        what is made once (images, compiled graphs), and is not measured."""
        seats: dict[str, Seat] = {}
        for number in range(self._rounds + 1):
            for name in _rotated([name for name in makers if name not in self._absent], number):
                try:
                    self._once(name, makers[name], seats, number)
                except Absent as reason:
                    self._leave(name, reason)
                    seats.pop(name, None)
        return Outcome([seat.side() for seat in seats.values()], [], self._absent)

    def _once(self, name: str, make: Callable[[Target], Contender], seats: dict[str, Seat], number: int) -> None:
        machine.wait_for_quiet(QUIET, self._patience_s)
        contender = make(self._target)
        others, began_s = machine.Others(), time.monotonic()
        facts = contender.start()
        try:
            contender.run(self._workload.prompts(number), self._workload.tokens)
            took_s = time.monotonic() - began_s
            seat = seats.setdefault(name, Seat(contender, facts))
            if number:
                seat.values.append(took_s)
                seat.others.append(others.share())
                seat.held_bytes = max(seat.held_bytes, machine.held_bytes(contender.pid))
                self._tell(seat)
        finally:
            contender.stop()

    def _seat(self, name: str, make: Callable[[Target], Contender], seats: list[Seat]) -> None:
        try:
            contender = make(self._target)
            seats.append(Seat(contender, contender.start()))
            prompts = [prompt[:16] for prompt in self._workload.prompts(1 << 20)]
            contender.run(prompts, WARM_TOKENS)
            contender.rest(resting=True)
        except Absent as reason:
            self._leave(name, reason)

    def _leave(self, name: str, reason: Absent) -> None:
        self._absent[name] = str(reason)
        self._say(f"  {name} is not there: {reason}")

    def _probe(self, seats: Sequence[Seat]) -> Bandwidth:
        ours = next(seat.facts for seat in seats if seat.facts.ours)
        return Bandwidth(ours.weight_bytes, self._target.threads)

    def _play(self, seats: Sequence[Seat], probe: Bandwidth) -> list[float]:
        bandwidth = []
        for number in range(self._rounds):
            prompts = self._workload.prompts(number)
            for seat in _rotated(seats, number):
                machine.wait_for_quiet(QUIET, self._patience_s)
                bandwidth.append(probe.measure())
                seat.contender.rest(resting=False)
                others = machine.Others()
                timing = seat.contender.run(prompts, self._workload.tokens)
                seat.others.append(others.share())
                seat.values.append(self._workload.measure(timing))
                seat.held_bytes = max(seat.held_bytes, machine.held_bytes(seat.contender.pid))
                seat.contender.rest(resting=True)
                self._tell(seat)
        return bandwidth

    def _tell(self, seat: Seat) -> None:
        done = f"round {len(seat.values)} of {self._rounds}"
        others = f"others took {seat.others[-1]:.0%} of the machine"
        self._say(f"  {done}  {seat.facts.label:<24} {seat.values[-1]:10.2f} {self._workload.unit}  ({others})")


def _rotated(seats: Sequence[T], number: int) -> list[T]:
    """Who comes first changes from round to round."""
    first = number % len(seats) if seats else 0
    return [*seats[first:], *seats[:first]]
