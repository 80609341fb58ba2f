"""The account of bytes: nothing large is allocated before the ledger has granted it."""

from __future__ import annotations

from kelm.errors import OutOfMemory


class Ledger:
    """One budget, split over lines such as ``kv``, ``weights:NAME``, ``activations:NAME``."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lines: dict[str, int] = {}

    @property
    def granted_bytes(self) -> int:
        return sum(self._lines.values())

    def line(self, name: str) -> int:
        """Bytes granted to a line; 0 for one that was never asked for."""
        return self._lines.get(name, 0)

    def grant(self, name: str, size_bytes: int, shown: str | None = None) -> None:
        """Set a line to ``size_bytes`` (larger or smaller than before). ``shown``: the line as a user knows it.

        Raises OutOfMemory, and changes nothing, when the budget does not hold it.
        """
        assert size_bytes >= 0
        free = self.budget_bytes - (self.granted_bytes - self.line(name))
        if size_bytes > free:
            error = OutOfMemory(
                f"{shown or name} needs {size_bytes} bytes and {free} of the budget of {self.budget_bytes} are free: "
                f"{size_bytes - free} bytes are missing; unload a model or raise the memory budget (KELM_MEMORY)"
            )
            error.missing_bytes = size_bytes - free
            raise error
        self._lines[name] = size_bytes

    def release(self, name: str) -> None:
        """Give a line back; nothing happens where there is none."""
        self._lines.pop(name, None)
