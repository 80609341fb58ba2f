"""Packed weights and products with them: the door to csrc/packed.hpp and csrc/linear.hpp.

A row's bits depend on the row and the weights only: not on the rows beside it, the number of threads, or the
instruction set (bf16 on AMX apart, see ``numerics``). The plain twin is packed_reference.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kelm.ops import native

Format = Literal["bf16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("bf16", "int8", "int4")
"""Numbered as in csrc/packed.hpp."""

TILE = 16
"""Outputs of a tile (csrc/packed.hpp)."""

LINE = 64
"""Bytes; packed data starts on one."""

LAYOUT = 1
"""Raised when the bytes of a packed matrix change: images are packed anew."""

_VERSION = 1
"""Raised when a layout or an arithmetic changes."""


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """A weight matrix [outputs, inputs] as the kernels read it; ``data`` may be a read-only map of a file."""

    data: npt.NDArray[np.uint8]
    outputs: int
    inputs: int
    format: Format


def numerics(weights: Format, isa: str) -> str:
    """Names the arithmetic: products with the same name have the same bits on every machine."""
    arithmetic = "tiles" if weights == "bf16" and isa == "amx" else "fma"
    return f"{weights}-{arithmetic}-{_VERSION}"


def packed_bytes(outputs: int, inputs: int, weights: Format) -> int:
    """Bytes of a packed matrix, padding included. Raises ValueError for a size out of range."""
    return native.loaded().packed_bytes(outputs, inputs, FORMATS.index(weights))


def empty(size: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes that start on a line."""
    room = np.empty(size + LINE - 1, dtype=np.uint8)
    skip = -room.ctypes.data % LINE
    return room[skip : skip + size]


def pack(pool: native.Pool, rows: Any, weights: Format, *, to: npt.NDArray[np.uint8] | None = None) -> Packed:
    """Round a weight matrix to a format and lay it out in tiles.

    Args:
        rows: [outputs, inputs] float32, float16, bfloat16 (torch), or bfloat16's bits as uint16; each row contiguous.
        to: where to, ``packed_bytes`` bytes that start on a line; default: new memory.

    Raises:
        TypeError: ``rows`` has another dtype, rank or device.
        ValueError: a weight is not finite or too large; ``to`` has another size or alignment.
    """
    outputs, inputs = rows.shape
    data = empty(packed_bytes(outputs, inputs, weights)) if to is None else to
    native.loaded().pack(pool, rows, data, FORMATS.index(weights))
    return Packed(data, outputs, inputs, weights)


def unpack(
    pool: native.Pool, packed: Packed, ids: npt.NDArray[np.int64], *, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Rows ``ids`` of the matrix as float32 [len(ids), inputs], exactly: an embedding look-up in a tied head.

    Raises:
        TypeError: ``ids`` is not int64 or not of rank one.
        ValueError: an id is not a row, or ``out`` does not fit.
    """
    result = np.empty((len(ids), packed.inputs), dtype=np.float32) if out is None else out
    native.loaded().unpack(pool, packed.data, packed.outputs, packed.inputs, FORMATS.index(packed.format), ids, result)
    return result


def linear(
    pool: native.Pool, x: Any, packed: Packed, *, bias: Any = None, out: Any = None, isa_name: str | None = None
) -> Any:
    """``x @ W.T + bias`` in float32.

    bf16 weights round ``x`` to bf16 and sum in float32. int8 and int4 weights take ``x`` as int8 with a scale for each
    32 inputs, sum exactly within those and in float32 across them. A value of ``x`` that is not finite makes its whole
    row nan under int8 and int4; under bf16 it does what IEEE says. Denormals count as zero.

    Args:
        x: float32 [rows, inputs], each row contiguous, rows any distance apart.
        bias: float32 [outputs].
        out: float32 [rows, outputs], no overlap with the others; default: a new numpy array.
        isa_name: one of ``native.machine_isas()``; default ``native.isa()``.

    Raises:
        ConfigError: there are no compiled kernels, or KELM_ISA is wrong.
        TypeError: an array has another dtype, rank or device, or ``out`` is read-only.
        ValueError: shapes do not fit together, or a row is not contiguous.
    """
    result = np.empty((x.shape[0], packed.outputs), dtype=np.float32) if out is None else out
    chosen = native.ISAS.index(isa_name or native.isa())
    native.loaded().linear(pool, x, packed.data, packed.outputs, FORMATS.index(packed.format), bias, result, chosen)
    return result


def read_all(pool: native.Pool, data: npt.NDArray[np.uint8]) -> int:
    """Read every word of ``data`` once, with all threads, and return their xor: the bandwidth that bounds decoding.

    Raises:
        ValueError: ``data`` is not whole words of 8 bytes.
    """
    return native.loaded().read_all(pool, data)
