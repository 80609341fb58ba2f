"""Opens a checkpoint with the executor that can run it. The only file here that knows torch, and only when called:
a worker says hello before that import, which takes seconds.

    native family (models/loader.py)   -> executor 'torch' until the compiled ops run it
    anything else                      -> UnsupportedModel
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kelm.wire.messages import Load, Loaded
from kelm.worker.opened import Opened, Progress

if TYPE_CHECKING:
    from kelm.models.info import ModelInfo


def open_checkpoint(command: Load, progress: Progress) -> Opened:
    """Raises ModelFormatError, UnsupportedModel."""
    import torch

    from kelm.models.loader import load

    model = load(command.files, command.dtype, progress)
    kind: torch.dtype = getattr(torch, model.info.dtype)

    def attach(views: list[NDArray[np.generic]]) -> None:
        model.attach([torch.from_numpy(view).view(kind) for view in views])

    return Opened(
        _loaded(command.model, model.name, model.info), decoder=model, attach=attach, kv_item_bytes=kind.itemsize
    )


def _loaded(key: str, executor: str, info: ModelInfo) -> Loaded:
    return Loaded(
        model=key,
        executor=executor,
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
