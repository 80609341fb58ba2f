"""What a client has of a stream, so that another replica can go on where one stopped.

A replica that takes over computes the same answer from its beginning (the request has a seed, and noise is a function
of it), so what the client has is compared and skipped. Where events were cut need not be the same:

    delivered      "The qu" "ick"                      the replica dies here
    again          "The" " quick br" "own fox"
    sent on                    " br" "own fox"

Texts are cut by characters, token ids and log-probabilities by number; what comes once (a role, a call's name, how a
choice ended) counts as a list of one.
"""

from __future__ import annotations

from typing import Any

from kelm.errors import WorkerFailed

Json = dict[str, Any]
Place = tuple[str | int, ...]
"""Where in a choice a value is, such as (0, "delta", "tool_calls", 1, "function", "arguments")."""

_TEXTS = {"text", "content", "arguments"}
_NEW_EACH_TIME = {"id"}
"""Of a tool call: made up by each replica, so not compared; the client has the first one's."""


class Delivered:
    """One stream, over as many replicas as it takes. The objects of each go through ``event``, in order."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._had: dict[Place, Any] = {}
        """What the client had when this replica began."""
        self._pieces: dict[Place, list[Any]] = {}
        """What this replica has said."""
        self._lengths: dict[Place, int] = {}
        """Of the pieces together."""

    def again(self) -> None:
        """The next event is another replica's first."""
        for place, pieces in self._pieces.items():
            whole = _joined(pieces)
            if len(whole) > len(self._had.get(place, ())):
                self._had[place] = whole
        self._pieces, self._lengths = {}, {}

    def event(self, event: Json) -> Json | None:
        """What of it the client does not have; None when that is nothing.

        Raises WorkerFailed when this replica says something else than was delivered: such a stream can't go on.
        """
        if not self._head:
            self._head = {name: event[name] for name in ("id", "created") if name in event}
        choices = [kept for choice in event.get("choices", ()) if (kept := self._choice(choice)) is not None]
        usage = event.get("usage")
        fresh = usage is not None and self._cut(("usage",), [True])
        return {**event, **self._head, "choices": choices} if choices or fresh else None

    def _choice(self, choice: Json) -> Json | None:
        index = choice.get("index", 0)
        behind = any(len(had) > self._lengths.get(place, 0) for place, had in self._had.items() if place[0] == index)
        rest, fresh = self._walk((index,), choice)
        return (rest if fresh else None) if behind else choice

    def _walk(self, place: Place, value: Any) -> tuple[Any, bool]:
        """The rest of a value, and whether there is anything in it."""
        name = place[-1]
        if isinstance(value, dict):
            walked = {key: self._walk((*place, key), inner) for key, inner in value.items()}
            return {key: rest for key, (rest, _) in walked.items()}, any(fresh for _, fresh in walked.values())
        if name == "tool_calls" and isinstance(value, list):
            calls = [self._walk((*place, call.get("index", 0)), call) for call in value]
            return [rest for rest, fresh in calls if fresh], any(fresh for _, fresh in calls)
        if isinstance(value, list) or (isinstance(value, str) and name in _TEXTS):
            rest = self._cut(place, value)
            return rest, bool(rest)
        if value is None or name == "index":
            return value, False
        once = self._cut(place, [name in _NEW_EACH_TIME or value])
        return (value if once else None), bool(once)

    def _cut(self, place: Place, piece: Any) -> Any:
        """``piece`` without what the client has of it."""
        start, had = self._lengths.get(place, 0), self._had.get(place, piece[:0])
        self._lengths[place] = start + len(piece)
        self._pieces.setdefault(place, []).append(piece)
        overlap = max(0, min(len(piece), len(had) - start))
        if piece[:overlap] != had[start : start + overlap]:
            raise WorkerFailed(
                "the replica that answered this died, and the one that took over gives another answer: send the "
                "request again"
            )
        return piece[overlap:]


def _joined(pieces: list[Any]) -> Any:
    if isinstance(pieces[0], str):
        return "".join(pieces)
    return [item for piece in pieces for item in piece]
