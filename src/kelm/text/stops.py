"""Stop strings in a stream: shows nothing that a stop string will turn out to contain, and holds back nothing else.

The stop that is completed first ends the text; of several completed by the same character, the one that began first.
For one stop string that is ``full.split(stop)[0]``. What is held back is exactly the longest suffix of the text so
far that is a proper prefix of some stop string, which is the depth of a state of Aho and Corasick's automaton
(Efficient string matching, CACM 1975) over the stop strings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(slots=True)
class _State:
    depth: int
    """Length of the longest suffix that is a prefix of a stop string."""
    next: dict[str, _State] = field(default_factory=dict)
    fail: _State | None = None
    stop: str | None = None
    """The longest stop string that ends here."""


@lru_cache(maxsize=256)
def _automaton(stops: tuple[str, ...]) -> _State:
    root = _State(0)
    for stop in stops:
        state = root
        for char in stop:
            state = state.next.setdefault(char, _State(state.depth + 1))
        state.stop = stop
    queue = list(root.next.values())
    for state in queue:  # by depth, so that a shallower state is always finished
        state.fail = state.fail or root
        state.stop = state.stop or state.fail.stop
        for char, child in state.next.items():
            child.fail = _step(state.fail, char)
            queue.append(child)
    return root


def _step(state: _State, char: str) -> _State:
    while char not in state.next:
        if state.fail is None:
            return state
        state = state.fail
    return state.next[char]


class StopScanner:
    """Watches one stream for stop strings."""

    def __init__(self, stops: tuple[str, ...] = (), include: bool = False) -> None:
        """``include``: the stop string is shown too; then nothing need be held back."""
        self._state = _automaton(tuple(stop for stop in stops if stop))
        self._include = include
        self._held = ""
        self.hit: str | None = None
        """The stop string that ended the stream; what is pushed afterwards is dropped."""
        self.seen_chars = 0
        """Characters read, those that completed the stop string included."""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown now, and the stop string if one was completed."""
        if self.hit is not None:
            return "", self.hit
        state = self._state
        for at, char in enumerate(text, start=1):
            state = _step(state, char)
            if state.stop is not None:
                return self._end(text[:at], state.stop), state.stop
        self._state = state
        self.seen_chars += len(text)
        known = self._held + text
        keep = 0 if self._include else state.depth
        shown, self._held = known[: len(known) - keep], known[len(known) - keep :]
        return shown, None

    def flush(self) -> str:
        """The end of the stream: what was held back, which is now known to be no stop string."""
        shown, self._held = self._held, ""
        return shown

    def _end(self, text: str, stop: str) -> str:
        self.hit = stop
        self.seen_chars += len(text)
        known, self._held = self._held + text, ""
        return known if self._include else known[: len(known) - len(stop)]
