"""Near matches for a name that does not exist: one wording everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """At most ``most`` of ``known`` that look like ``name`` (case ignored), best first."""
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    found = get_close_matches(name.casefold(), by_folded, n=most, cutoff=0.6)
    return [by_folded[folded] for folded in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean a, b?"``, or an empty string when nothing is near."""
    matches = near(name, known)
    return f"; did you mean {', '.join(matches)}?" if matches else ""
