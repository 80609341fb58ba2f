"""A run of a decoder's layers, for a process that holds no more than that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Layers ``layers`` of ``depth``. The first part has the embedding too, the last the final norm and the head."""

    layers: range
    depth: int

    def __post_init__(self) -> None:
        assert self.layers.step == 1 and 0 <= self.layers.start < self.layers.stop <= self.depth, self

    @property
    def first(self) -> bool:
        return self.layers.start == 0

    @property
    def last(self) -> bool:
        return self.layers.stop == self.depth
