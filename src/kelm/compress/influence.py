"""How much each layer changes what passes through it (block influence, ShortGPT, https://arxiv.org/abs/2403.03853,
equation 1):

    influence(layer) = 1 - mean over tokens of cos(residual stream before the layer, and after it)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional

from kelm.limits import CALIBRATION_TOKENS
from kelm.models.batch import Batch, Span
from kelm.models.decoder import LoadedDecoder
from kelm.ops import paged

WINDOW_TOKENS = 512


@torch.inference_mode()
def influence(
    decoder: LoadedDecoder, texts: Iterable[Sequence[int]], progress: Callable[[int, int], None]
) -> tuple[float, ...]:
    """Of each layer, over the first limits.CALIBRATION_TOKENS tokens of ``texts``, in windows of WINDOW_TOKENS."""
    window = min(WINDOW_TOKENS, decoder.info.max_context_tokens)
    windows = [ids[at : at + window] for ids in texts for at in range(0, len(ids), window)]
    sums = torch.zeros(len(decoder.spec.layers), dtype=torch.float64)
    most, seen = int(CALIBRATION_TOKENS.value), 0
    total = min(most, sum(map(len, windows)))
    for ids in windows:
        ids = ids[: most - seen]
        if not ids:
            break
        sums += _cosines(decoder, ids)
        seen += len(ids)
        progress(seen, total)
    return tuple(float(1 - mean) for mean in sums / max(1, seen))


def _cosines(decoder: LoadedDecoder, ids: Sequence[int]) -> torch.Tensor:
    """[layers] summed over the tokens."""
    blocks = -(-len(ids) // paged.KV_TILE)
    decoder.attach(
        [
            torch.zeros((1, blocks, len(g.layers), g.kv_heads, 2, paged.KV_TILE, g.head_dim), dtype=decoder.dtype)
            for g in decoder.groups
        ]
    )
    table = np.arange(blocks, dtype=np.int32)
    span = Span(0, 0, len(ids), 0, (table,) * len(decoder.groups))
    states = decoder.states(Batch(np.array(ids, dtype=np.int64), (span,), np.zeros(0, dtype=np.int64)))
    before, sums = next(states), []
    for after in states:
        sums.append(functional.cosine_similarity(before[: len(ids)], after[: len(ids)], dim=1).double().sum())
        before = after
    return torch.stack(sums)
