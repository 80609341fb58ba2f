"""Which resident models make room for another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory."""

    key: str
    held_bytes: int
    """What its leaving gives back."""
    used_s: float
    """When somebody last asked for it, on any clock that they all have in common."""
    busy: bool = False
    """Something unfinished runs on it, or waits to."""
    base: str | None = None
    """Key of the resident whose weights it shares."""


def to_evict(residents: Iterable[Resident], missing_bytes: int) -> list[str] | None:
    """Keys in the order of eviction, the least recently used first, so that ``missing_bytes`` come free.

    Never a busy one, and never one before those that share its weights. None when even all of them would not be
    enough: then nobody is to be evicted for nothing.
    """
    left = {one.key: one for one in residents}
    evicted: list[str] = []
    while missing_bytes > 0:
        bases = {one.base for one in left.values()}
        able = [one for one in left.values() if not one.busy and one.key not in bases]
        if not able:
            return None
        oldest = min(able, key=lambda one: one.used_s)
        evicted.append(left.pop(oldest.key).key)
        missing_bytes -= oldest.held_bytes
    return evicted
