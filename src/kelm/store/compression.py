"""``compression.json``: what a compressed model was made from, how, and what it cost. It is part of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from kelm.errors import ModelFormatError

FILE = "compression.json"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The model before, or after."""

    precision: str
    """bfloat16, int8, int4 group 32, ..."""
    layers: int
    parameters: int
    size_bytes: int
    """On disk, all files."""
    weight_bytes: int | None = None
    """In memory; None where it could not be loaded."""
    perplexity: float | None = None
    """None: not measured, or past every number."""


class Compression(msgspec.Struct, frozen=True, kw_only=True):
    """``text``: what perplexity was measured on. ``influence``: of each layer of the source (1 - the mean cosine
    between what goes in and what comes out), where it decided which are ``removed``. ``weight_error``: root mean
    square of what rounding changed, as a share of the weights'."""

    source: str
    source_digest: str
    method: str
    before: Side
    after: Side
    text: str | None = None
    weight_error: float | None = None
    removed: tuple[int, ...] = ()
    influence: tuple[float, ...] = ()


def encode(record: Compression) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def read(files: Mapping[str, str]) -> Compression | None:
    """Of a checkpoint's files (name -> path); None when it wasn't made by compression. Raises ModelFormatError."""
    if FILE not in files:
        return None
    try:
        return msgspec.json.decode(Path(files[FILE]).read_bytes(), type=Compression)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFormatError(f"{FILE}: {error}", param=FILE) from None
