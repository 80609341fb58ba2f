"""A checkpoint opened for running: what residency needs of it, whichever executor it got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kelm.memory.layout import BlockLayout
from kelm.models.batch import Executor
from kelm.wire.messages import Encode, Load, Loaded

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""


class Encoder(Protocol):
    def run(self, request: Encode) -> list[NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True)
class LaidOver:
    """A variant, checked and not made yet. ``own_bytes``: of weights, beside its base's."""

    own_bytes: int
    open: Callable[[Progress], Opened]


@dataclass(frozen=True, slots=True)
class Opened:
    """``decoder`` generates, ``encoder`` answers Encode; one of them or both."""

    loaded: Loaded
    decoder: Executor | None = None
    encoder: Encoder | None = None
    attach: Callable[[list[NDArray[np.generic]]], None] = lambda views: None
    """Gives a decoder its KV groups' views (worker/arena.py)."""
    kv_item_bytes: int = 4
    decoder_start: int | None = None
    """Of an encoder-decoder: the token its answers start from."""
    lay_over: Callable[[Load], LaidOver] | None = None
    """Makes a variant of this model, which it shares weights with; None where the executor can't."""
    copied: Callable[[BlockLayout, int, int], None] = lambda layout, source, target: None
    """Told of every block that was copied in the arena, for a decoder that keeps KV elsewhere too."""


Opener = Callable[[Load, Progress], Opened]
