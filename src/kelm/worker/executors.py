"""Opens a checkpoint with the executor that can run it. The only file here that knows torch, and only when one needs
it: that import takes seconds.

    a decoder family, in a precision that has kernels (models/native/)   -> executor 'native'
    a native family (models/loader.py)                                   -> executor 'torch'
    anything else (models/fallback.py)                                   -> executor 'fallback', where transformers can
                                                                            build it; not what is quantized
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kelm.errors import UnsupportedModel
from kelm.models.native.decoder import NativeDecoder
from kelm.models.native.opening import Images, NativeOutline, load_native, outline
from kelm.models.native.variant import lay_over as lay_over_native
from kelm.ops import native
from kelm.ops.step import BLOCK_TOKENS
from kelm.wire.messages import Load, Loaded
from kelm.worker.arena import lay_out_groups
from kelm.worker.opened import LaidOver, Opened, Progress
from kelm.worker.settings import EngineSettings

if TYPE_CHECKING:
    from kelm.models.info import ModelInfo
    from kelm.models.loader import Model


class Checkpoints:
    """Opens checkpoints for a worker with these settings: an Opener. Kernels share one pool of threads."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._pool: native.Pool | None = None

    def __call__(self, command: Load, progress: Progress) -> Opened:
        """Raises ModelFormatError, UnsupportedModel."""
        found = self._native(command)
        return _open_torch(command, progress) if found is None else self._open_native(command, found, progress)

    def _native(self, command: Load) -> NativeOutline | None:
        """The model as the kernels will run it; None where another executor has to."""
        wanted = self._settings.executor
        if wanted == "torch":
            return None
        try:
            found = outline(command.files, command.dtype)
        except UnsupportedModel:
            if wanted == "native":
                raise
            return None
        obstacle = found.obstacle() or self._obstacle(found)
        if obstacle and wanted == "native":
            raise UnsupportedModel(f"the native executor can't run this model: {obstacle}; set executor to auto")
        return None if obstacle else found

    def _obstacle(self, found: NativeOutline) -> str:
        """As NativeOutline.obstacle, of what is this worker's own."""
        layouts = lay_out_groups(found.groups, found.kv_item_bytes, self._settings.slab_bytes)
        tokens = {layout.block_tokens for layout in layouts}
        return "" if tokens == {BLOCK_TOKENS} else f"a slab of {self._settings.slab_bytes} bytes is too small"

    def _open_native(self, command: Load, found: NativeOutline, progress: Progress) -> Opened:
        if self._pool is None:
            self._pool = native.pool(self._settings.threads)
        images = Images(Path(command.images), command.digest) if command.images else None
        pool, model = self._pool, load_native(found, self._pool, progress, images=images)

        def lay_over(variant: Load) -> LaidOver:
            laid = lay_over_native(model, found, variant.files, variant.layers, pool)
            return LaidOver(laid.own_bytes, lambda progress: opened(variant, laid.make(progress)))

        def opened(command: Load, model: NativeDecoder) -> Opened:
            loaded = _loaded(command.model, model.name, model.info)
            return Opened(loaded, decoder=model, attach=model.attach, kv_item_bytes=found.kv_item_bytes)

        return replace(opened(command, model), lay_over=lay_over)


open_checkpoint = Checkpoints(EngineSettings(memory_bytes=0))
"""With the settings that an engine has by default."""


def _open_torch(command: Load, progress: Progress) -> Opened:
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
