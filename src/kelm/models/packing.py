"""What goes into an image (images.py): every slot of a model, as a packed matrix or as a vector.

    matrices   [outputs, inputs] in a format of ops/packed.py, q, k and v one after another
    up         of a gated model, weight and bias: gate and up by turns, 16 outputs each, both padded with zeros to whole
               tiles, so that one tile of the product has what the gate needs
                   gate 0-15 | up 0-15 | gate 16-31 | up 16-31 | ...
    vectors    float32: norms (1 added for a family that keeps the difference from it), biases, positions

A linear that the checkpoint keeps as integers stays as it is, bit for bit, whatever precision is asked for. Weights are
read slot by slot from mapped files, without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.tensor_index import Entry, TensorIndex, module_of
from kelm.ops import packed, prequantized
from kelm.store.images import TensorPlace, Wanted
from kelm.store.tensors import TensorFile, as_float32

if TYPE_CHECKING:
    from kelm.models.layout import Slot
    from kelm.models.quantization import Quantization
    from kelm.ops.native import Pool

Precision = Literal["float32", "bfloat16", "int8", "int4"]
VECTOR = "vector"
"""A kind beside the formats of ops/packed.py."""

LAYOUT = 1
"""Raised when what this file makes of the same slots changes."""

_TABLES = ("embed.weight", "words.weight", "head.weight")
"""Rows that stand for tokens: looked up, multiplied with for logits, or both."""
_FORMAT: Mapping[Precision, str] = {"float32": "float32", "bfloat16": "bf16", "int8": "int8", "int4": "int4"}
_TABLE_FORMAT = {**_FORMAT, "int4": "int8"}
"""Four bits cost most where tokens are told apart, and other engines keep more there, too."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Source:
    """A checked model whose weights have not been read. ``gated``: DecoderSpec.gated."""

    index: TensorIndex
    slots: Mapping[str, Slot]
    gated: bool
    _open: dict[str, TensorFile] = field(default_factory=dict, init=False)

    def wanted(self, precision: Precision) -> dict[str, list[Wanted]]:
        """What an image of that precision has in each extent: a layer, or what stands outside of all."""
        found: dict[str, list[Wanted]] = {}
        for name in self.slots:
            found.setdefault(_extent(name), []).append(self._wanted(name, precision))
        return found

    def pack(self, tensor: TensorPlace, pool: Pool, to: NDArray[np.uint8]) -> None:
        """Write the bytes of a tensor of ``wanted``.

        Raises UnsupportedModel: a value does not fit the format; ModelFormatError: a file contradicts itself.
        """
        slot = self.slots[tensor.name]
        quantization = self._quantization(tensor.name)
        if tensor.kind == VECTOR:
            to.view(np.float32)[:] = self._vector(tensor.name, slot).reshape(-1)
            return
        try:
            if quantization is not None:
                values, scales = self._integers(slot, quantization)
                weights: Any = tensor.kind
                prequantized.lay_out(
                    self._arranged(tensor.name, values, prequantized.ZERO[weights]),
                    self._arranged(tensor.name, scales, 0),
                    weights,
                    to,
                )
            else:
                packed.pack(pool, self._rows(tensor.name, slot), tensor.kind, to=to)  # type: ignore[arg-type]
        except ValueError as error:
            raise UnsupportedModel(f"{slot.names[0]} can't be packed as {tensor.kind}: {error}") from None

    def _wanted(self, name: str, precision: Precision) -> Wanted:
        slot = self.slots[name]
        rows, *others = sum(shape[0] for shape in slot.shapes), *slot.shapes[0][1:]
        shape = (2 * _tiles(rows // 2) if self._by_turns(name) else rows, *others)
        kind = self._kind(name, precision)
        size = 4 * prod(shape) if kind == VECTOR else packed.packed_bytes(*shape, kind)  # type: ignore[call-arg, arg-type]
        return Wanted(name, kind, shape, size)

    def _kind(self, name: str, precision: Precision) -> str:
        quantization = self._quantization(name)
        if quantization is not None:
            return f"int{quantization.bits}"
        if name in _TABLES:
            return _TABLE_FORMAT[precision]
        return _FORMAT[precision] if self.slots[name].linear else VECTOR

    def _quantization(self, name: str) -> Quantization | None:
        return self.index.quantization_of(self.slots[name])

    def _by_turns(self, name: str) -> bool:
        return self.gated and name.endswith((".up.weight", ".up.bias"))

    def _rows(self, name: str, slot: Slot) -> NDArray[Any]:
        """A matrix in a type that packed.pack takes, in the file's own memory where it lies there as it is wanted."""
        parts = list(self._parts(slot))
        if len({part.dtype for part, _ in parts}) > 1:
            parts = [(as_float32(part, dtype), "F32") for part, dtype in parts]
        arrays = [np.ascontiguousarray(part.T if slot.transposed else part) for part, _ in parts]
        return self._arranged(name, arrays[0] if len(arrays) == 1 else np.concatenate(arrays), 0)

    def _vector(self, name: str, slot: Slot) -> Floats:
        whole = np.concatenate([as_float32(part, dtype) for part, dtype in self._parts(slot)])
        return self._arranged(name, whole, 0) + np.float32(slot.offset or 0)

    def _arranged(self, name: str, rows: NDArray[Any], nothing: int) -> NDArray[Any]:
        """Gate and up by turns, padded with ``nothing``."""
        if not self._by_turns(name):
            return rows
        each = len(rows) // 2
        out = np.full((_tiles(each) // packed.TILE, 2, packed.TILE, *rows.shape[1:]), nothing, rows.dtype)
        for side in range(2):
            half = rows[side * each : (side + 1) * each]
            whole = each // packed.TILE * packed.TILE
            out[: whole // packed.TILE, side] = half[:whole].reshape(-1, packed.TILE, *rows.shape[1:])
            if whole < each:
                out[-1, side, : each - whole] = half[whole:]
        return out.reshape(-1, *rows.shape[1:])

    def _integers(self, slot: Slot, quantization: Quantization) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Of a quantized slot: values as prequantized.lay_out takes them, and scales."""
        weights: Any = f"int{quantization.bits}"
        values, scales = [], []
        for name, (rows, columns) in zip(slot.names, slot.shapes, strict=True):
            module = module_of(name)
            part = self._values(module, (rows, columns), quantization)
            entry = self.index.entries[f"{module}.weight_scale"]
            wide = as_float32(self._array(entry), entry.dtype)
            scales.append(prequantized.float16_scales(wide, quantization.group or columns, part, weights))
            values.append(part)
        return np.concatenate(values), np.concatenate(scales)

    def _values(self, module: str, shape: tuple[int, int], quantization: Quantization) -> NDArray[np.uint8]:
        entries = self.index.entries
        if not quantization.packed:
            return self._array(entries[f"{module}.weight"]).view(np.uint8) ^ np.uint8(128)
        written = tuple(self._array(entries[f"{module}.weight_shape"]).tolist())
        if written != shape:
            raise ModelFormatError(f"{module}.weight_shape holds {list(written)}, config.json asks for {list(shape)}")
        words = self._array(entries[f"{module}.weight_packed"]).view(np.uint8)
        if quantization.bits == 4:
            words = np.stack([words & 15, words >> 4], axis=-1).reshape(shape[0], -1)
        return words[:, : shape[1]]

    def _parts(self, slot: Slot) -> Iterator[tuple[NDArray[Any], str]]:
        """With the type as safetensors writes it."""
        for name in slot.names:
            entry = self.index.entries[name]
            yield self._array(entry), entry.dtype

    def _array(self, entry: Entry) -> NDArray[Any]:
        if entry.file not in self._open:
            self._open[entry.file] = TensorFile(self.index.files[entry.file], entry.file)
        return self._open[entry.file].array(entry.name)


def _extent(slot: str) -> str:
    """``layers.3.qkv.weight`` -> ``layers.3``, ``embed.weight`` -> ``embed``."""
    parts = slot.split(".")
    return ".".join(parts[: 2 if parts[0] == "layers" else 1])


def _tiles(rows: int) -> int:
    """Rows in whole tiles."""
    return -(-rows // packed.TILE) * packed.TILE
