"""What a loaded model says about itself (wire.Loaded carries it); nothing here changes a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """``weight_bytes``: as held in memory, in ``dtype`` (float32 ..., or of quantized linears: int8, int4 group 32); of
    a variant: beside its base, of which it uses ``shared_bytes``. ``parameters``: of the model, whatever their
    precision. ``tasks`` and ``labels``: as in wire.Loaded."""

    kind: Literal["decoder", "encoder", "encoder-decoder"]
    architecture: str
    dtype: str
    parameters: int
    weight_bytes: int
    shared_bytes: int = 0
    max_context_tokens: int
    vocab: int
    hidden: int
    tasks: tuple[str, ...]
    labels: tuple[str, ...] = ()
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a text, from generation_config.json, else config.json."""
