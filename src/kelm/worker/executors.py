"""Opens a checkpoint with the executor that can run it. The only file here that knows torch, and only when called:
a worker says hello before that import, which takes seconds.

    native family (models/loader.py)   -> executor 'torch' until the compiled ops run it
    anything else (models/fallback.py) -> executor 'fallback', where transformers is there and can build it;
                                          not what is quantized
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kelm.errors import UnsupportedModel
from kelm.wire.messages import Load, Loaded
from kelm.worker.opened import LaidOver, Opened, Progress

if TYPE_CHECKING:
    from kelm.models.info import ModelInfo
    from kelm.models.loader import Model


def open_checkpoint(command: Load, progress: Progress) -> Opened:
    """Raises ModelFormatError, UnsupportedModel."""
    from kelm.models.fields import read_json
    from kelm.models.loader import load
    from kelm.models.quantization import FIELD

    try:
        model = load(command.files, command.dtype, progress)
    except UnsupportedModel as no_native_family:
        if FIELD in read_json(command.files["config.json"], "config.json"):
            raise
        return _open_fallback(command, no_native_family)
    return replace(_opened(command, model), lay_over=lambda variant: _lay_over(model, command, variant))


def _lay_over(base: Model, below: Load, command: Load) -> LaidOver:
    """Raises ModelFormatError, UnsupportedModel."""
    from kelm.models.variant import lay_over

    laid = lay_over(base, below.files, command.files, command.layers)
    return LaidOver(laid.own_bytes, lambda progress: _opened(command, laid.make(progress)))


def _opened(command: Load, model: Model) -> Opened:
    import torch

    from kelm.models.encoder import LoadedEncoder

    loaded = _loaded(command.model, model.name, model.info)
    if isinstance(model, LoadedEncoder):
        return Opened(loaded, encoder=model)
    kind = model.dtype

    def attach(views: list[NDArray[np.generic]]) -> None:
        model.attach([torch.from_numpy(view).view(kind) for view in views])

    return Opened(loaded, decoder=model, attach=attach, kv_item_bytes=kind.itemsize)


def _open_fallback(command: Load, no_native_family: UnsupportedModel) -> Opened:
    if find_spec("transformers") is None:
        raise UnsupportedModel(
            f"{no_native_family.message}; pip install 'kelm[fallback]' runs what transformers can build"
        )
    from kelm.models.fallback import load_fallback

    decoder, info = load_fallback(command.files, command.dtype)
    return Opened(_loaded(command.model, decoder.name, info), decoder=decoder, decoder_start=decoder.decoder_start)


def _loaded(key: str, executor: str, info: ModelInfo) -> Loaded:
    return Loaded(
        model=key,
        executor=executor,
        kind=info.kind,
        architecture=info.architecture,
        dtype=info.dtype,
        parameters=info.parameters,
        weight_bytes=info.weight_bytes,
        shared_bytes=info.shared_bytes,
        max_context_tokens=info.max_context_tokens,
        vocab=info.vocab,
        hidden=info.hidden,
        tasks=list(info.tasks),
        labels=list(info.labels),
    )
