"""Bits per byte of text: what a model needs to write a document down, whatever its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from kelm.tune.decoder import Decoder
from kelm.tune.documents import Document
from kelm.tune.packing import pack

ROWS = 16


@torch.no_grad()
def bits_per_byte(decoder: Decoder, documents: Sequence[Document], row_tokens: int) -> float:
    """All tokens of every document but its first one, role marks included, over the bytes of its text."""
    rows = pack([document for document in documents if len(document.ids) <= row_tokens], row_tokens)
    size = sum(document.text_bytes for document in documents if len(document.ids) <= row_tokens)
    decoder.eval()
    nats = 0.0
    for start in range(0, len(rows), ROWS):
        ids, positions, segments = (
            torch.from_numpy(array[start : start + ROWS]) for array in (rows.ids, rows.positions, rows.segments)
        )
        logits = decoder(ids.long(), positions, segments)[:, :-1].float()
        counted = (segments[:, 1:] > 0) & (positions[:, 1:] > 0)
        nats += float(functional.cross_entropy(logits[counted], ids[:, 1:].long()[counted], reduction="sum"))
    return nats / math.log(2) / size
