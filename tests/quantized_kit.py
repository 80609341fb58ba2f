"""Quantized checkpoints of any family and shape, written by kelm.compress; and a plain reading of the packed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kelm.compress import folder as checkpoints
from kelm.compress.plan import Plan
from kelm.compress.rounding import RoundingError, quantize
from kelm.compress.source import Source, open_source
from kelm.models.quantization import Quantization
from kelm.ops.quantized import QuantizedWeight
from kelm.store import Store

PRECISIONS = {"int8": Quantization(8, None), "int4": Quantization(4, 32)}


def source_of(folder: Path, home: Path, name: str = "source") -> Source:
    store = Store(home)
    return open_source(store, store.import_folder(folder, name))


def write_quantized(source: Source, folder: Path, precision: Quantization, *, head: bool = False) -> dict[str, str]:
    """The checkpoint's files; nothing is refused, not even a group that doesn't divide."""
    checkpoints.write(folder, Plan(source, tuple(range(source.depth)), precision, head), lambda done, total: None)
    return {path.name: str(path) for path in folder.iterdir()}


def quantized(weight: torch.Tensor, bits: int, group: int, dtype: torch.dtype = torch.float32) -> QuantizedWeight:
    packed, scale = quantize("weight", weight, bits, group, RoundingError())
    return QuantizedWeight(packed.view(torch.uint8), scale, bits, weight.shape[1], group, dtype)


def unpacked(packed: torch.Tensor, scale: torch.Tensor, bits: int, columns: int, group: int) -> np.ndarray:
    """float64 [out, in] of packed int32 [out, words], one value after another."""
    words, scales = packed.numpy().astype(np.int64) & 0xFFFFFFFF, scale.double().numpy()
    made = np.zeros((len(words), columns))
    for column in range(columns):
        word, place = divmod(column * bits, 32)
        value = (words[:, word] >> place) & ((1 << bits) - 1)
        made[:, column] = (value - (1 << (bits - 1))) * scales[:, column // group]
    return made
