"""Rows of fixed length, filled with whole documents.

    row      | doc 1 ........ | doc 2 ... | doc 3 ........... | pad |
    segment  | 1 1 1 1 1 1 1  | 2 2 2 2   | 3 3 3 3 3 3 3 3   | 0 0 |
    position | 0 1 2 3 4 5 6  | 0 1 2 3   | 0 1 2 3 4 5 6 7   | 0 1 |

Attention is masked to a token's own segment and positions start anew in each, so a packed row computes exactly
what each document alone would: nothing leaks between neighbours, and packing is only a matter of speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kelm.tune.documents import Document

OPEN_ROWS = 32
"""How many rows are kept open for a document that fits; more waste less and cost time."""


@dataclass(frozen=True)
class Rows:
    ids: NDArray[np.int32]  # [R, T]
    weights: NDArray[np.float32]  # [R, T], of predicting ids[r, t]; 0 at a document's first token and in padding
    segments: NDArray[np.int16]  # [R, T], 0 is padding
    positions: NDArray[np.int32]  # [R, T]
    cut_documents: int

    def __len__(self) -> int:
        return len(self.ids)


def pack(documents: Sequence[Document], row_tokens: int) -> Rows:
    """First fit, in order. A document longer than a row is cut to it and counted."""
    placed: list[list[Document]] = []
    open_rows: list[int] = []
    room: list[int] = []
    for document in documents:
        need = min(len(document.ids), row_tokens)
        row = next((row for row in open_rows if room[row] >= need), None)
        if row is None:
            row = len(placed)
            placed.append([])
            room.append(row_tokens)
            open_rows = [*open_rows[-(OPEN_ROWS - 1) :], row]
        placed[row].append(document)
        room[row] -= need
    return _fill(placed, row_tokens, sum(len(document.ids) > row_tokens for document in documents))


def _fill(placed: list[list[Document]], row_tokens: int, cut: int) -> Rows:
    shape = (len(placed), row_tokens)
    ids, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    segments, positions = np.zeros(shape, np.int16), np.zeros(shape, np.int32)
    for row, documents in enumerate(placed):
        start = 0
        for segment, document in enumerate(documents, 1):
            end = min(start + len(document.ids), row_tokens)
            ids[row, start:end] = document.ids[: end - start]
            weights[row, start:end] = document.weights[: end - start]
            segments[row, start:end] = segment
            positions[row, start:end] = np.arange(end - start)
            start = end
        positions[row, start:] = np.arange(row_tokens - start)
    return Rows(ids, weights, segments, positions, cut)


def batch_rows(rows: int, batch: int, step: int, seed: int) -> NDArray[np.int64]:
    """The rows of ``step``: each epoch is a permutation drawn from (seed, epoch), so a step's data is a pure
    function of its number and a resumed run needs no other state."""
    wanted = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(wanted, rows)
    orders = {epoch: np.random.default_rng([seed, int(epoch)]).permutation(rows) for epoch in set(epochs.tolist())}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)])
