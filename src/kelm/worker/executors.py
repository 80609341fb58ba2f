"""Opens a checkpoint with the executor that can run it. The only file here that knows torch, and only when called:
a worker says hello before that import, which takes seconds.

    a native family (models/loader.py)           -> 'torch'
    else what transformers can build (fallback.py) -> 'fallback'
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kelm.errors import UnsupportedModel
from kelm.models.batch import Executor
from kelm.wire.messages import Load, Loaded
from kelm.worker.opened import Opened, Progress


def open_checkpoint(command: Load, progress: Progress) -> Opened:
    """Raises ModelFormatError, UnsupportedModel."""
    try:
        return _native(command, progress)
    except UnsupportedModel:
        return _fallback(command)


def _native(command: Load, progress: Progress) -> Opened:
    import torch

    from kelm.models.loader import load

    model = load(command.files, command.dtype, progress)
    kind: torch.dtype = getattr(torch, model.info.dtype)
    info = model.info
    loaded = Loaded(
        model=command.model,
        executor=model.name,
        kind=info.kind,
        architecture=info.architecture,
        dtype=info.dtype,
        parameters=info.parameters,
        weight_bytes=info.weight_bytes,
        max_context_tokens=info.max_context_tokens,
        vocab=info.vocab,
        hidden=info.hidden,
        tasks=list(info.tasks),
        labels=list(info.labels),
    )

    def attach(views: list[NDArray[np.generic]]) -> None:
        model.attach([torch.from_numpy(view).view(kind) for view in views])

    return Opened(loaded, decoder=model, attach=attach, kv_item_bytes=kind.itemsize)


def _fallback(command: Load) -> Opened:
    from kelm.models.fallback import load_fallback

    model, info = load_fallback(command.files, command.dtype)
    decoder: Executor = model
    loaded = Loaded(
        model=command.model,
        executor=decoder.name,
        kind="encoder-decoder" if model.is_encoder_decoder else "decoder",
        architecture=info.architecture,
        dtype=info.dtype,
        parameters=info.parameters,
        weight_bytes=info.weight_bytes,
        max_context_tokens=info.max_context_tokens,
        vocab=info.vocab,
        hidden=info.hidden,
        tasks=["generate"],
    )
    return Opened(loaded, decoder=decoder, decoder_start=model.decoder_start)
