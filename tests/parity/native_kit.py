"""The native executor over random checkpoints, and an arena for it beside the torch decoder's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from decoder_configs import build
from parity_kit import Arena, save, scratch

from kelm.models.decoder import LoadedDecoder
from kelm.models.graph.plan import PASSES
from kelm.models.loader import load
from kelm.models.native.decoder import NativeDecoder
from kelm.models.native.opening import load_native, outline
from kelm.ops import native

POOLS: dict[int, native.Pool] = {}


def pool(threads: int = 1) -> native.Pool:
    if threads not in POOLS:
        POOLS[threads] = native.pool(threads)
    return POOLS[threads]


@cache
def files_of_family(family: str, seed: int) -> Mapping[str, str]:
    return save(build(family, seed), scratch())


def open_native(
    files: Mapping[str, str], dtype: str = "bfloat16", threads: int = 1, passes: tuple[str, ...] = PASSES
) -> NativeDecoder:
    found = outline(files, dtype)
    assert found.obstacle() == ""
    return load_native(found, pool(threads), lambda done, total: None, passes)


def open_torch(files: Mapping[str, str], dtype: str = "bfloat16") -> LoadedDecoder:
    return load(files, dtype)


def attach(decoder: NativeDecoder | LoadedDecoder, tokens: int, seed: int = 0) -> Arena:
    """KV in the decoder's own precision, its blocks in random places, NaN wherever nothing was written."""
    arena = Arena(decoder.groups, tokens, seed)
    kind = torch.float32 if decoder.info.dtype == "float32" else torch.bfloat16
    kv = [tensor.to(kind) for tensor in arena.kv]
    if isinstance(decoder, LoadedDecoder):
        decoder.attach(kv)
    else:
        bits = torch.int32 if kind == torch.float32 else torch.int16
        decoder.attach([tensor.view(bits).numpy() for tensor in kv])
    return arena
