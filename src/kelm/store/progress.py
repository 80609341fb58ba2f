"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, bytes done, bytes in all)."""


def no_progress(what: str, done_bytes: int, total_bytes: int) -> None:
    """The Progress of somebody who does not look."""


def counter(what: str, total_bytes: int, progress: Progress) -> Callable[[int], None]:
    """A function that adds up sizes and reports the sum to ``progress``."""
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(what, done, total_bytes)

    return count
