"""Who killed the worker? Pure: pids in, verdicts out.

The members of the step that was running are suspects. They are replayed in groups, one group at a time and nobody
else with it; a group is split when the worker dies under it, a member is cleared when it gets further than it was.

    died {a b c d e f g h}      groups [a b c d] [e f g h]
    died under [a b c d]        groups [a b] [c d] [e f g h]
    a, b cleared                groups [c d] [e f g h]
    died under [c d]            groups [c] [d] [e f g h]
    died under [c], alone       groups [c] [d] [e f g h]        one death on c's account
    died under [c], again       c is convicted                  limits.WORKER_DEATHS_ALONE

So one culprit among n costs about log2(n) + 2 restarts, and nobody who never killed a worker alone is failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kelm import limits


class Suspects:
    """``active`` while somebody is suspected; then only pids of the first group may run."""

    def __init__(self) -> None:
        self._groups: deque[list[int]] = deque()
        self._deaths_alone: dict[int, int] = {}

    @property
    def active(self) -> bool:
        return bool(self._groups)

    @property
    def on_trial(self) -> tuple[int, ...]:
        """The pids that may run; empty when nobody is suspected, and then everybody may."""
        return tuple(self._groups[0]) if self._groups else ()

    def may_run(self, pid: int) -> bool:
        return not self._groups or pid in self._groups[0]

    def died(self, members: Iterable[int]) -> int | None:
        """The worker died with these in its step. Returns a pid to fail, if one has died alone too often."""
        group = self._narrowed(list(members))
        if len(group) == 1:
            return self._charge(group[0])
        if group:
            middle = (len(group) + 1) // 2
            self._groups.extendleft((group[middle:], group[:middle]))
        return None

    def cleared(self, pid: int) -> bool:
        """It got further than the step that killed the worker. True when that lets others run."""
        self._deaths_alone.pop(pid, None)
        return self.gone(pid)

    def gone(self, pid: int) -> bool:
        """It ended or may not run now. True when that lets others run."""
        for group in self._groups:
            if pid in group:
                group.remove(pid)
                break
        if self._groups and not self._groups[0]:
            while self._groups and not self._groups[0]:
                self._groups.popleft()
            return True
        self._groups = deque(group for group in self._groups if group)
        return False

    def _narrowed(self, members: list[int]) -> list[int]:
        """The group to look into; it is taken out of the queue."""
        if not self._groups:
            return members
        guilty = [pid for pid in self._groups[0] if pid in members]
        rest = [pid for pid in self._groups[0] if pid not in members]
        if not guilty:
            return []  # no step of this group ran: it is tried again as it is
        self._groups.popleft()
        if rest:
            self._groups.appendleft(rest)
        return guilty

    def _charge(self, pid: int) -> int | None:
        deaths = self._deaths_alone.get(pid, 0) + 1
        if deaths >= limits.WORKER_DEATHS_ALONE.value:
            self._deaths_alone.pop(pid, None)
            return pid
        self._deaths_alone[pid] = deaths
        self._groups.appendleft([pid])
        return None
