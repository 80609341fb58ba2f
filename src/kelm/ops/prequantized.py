"""Weights that a checkpoint keeps as integers, laid out as the kernels read them (csrc/packed.hpp) without rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kelm.ops.packed import Format

Bytes = npt.NDArray[np.uint8]

TILE, GROUP, BLOCK = 16, 32, 64
ZERO = {"int8": 128, "int4": 8}
"""What stands for zero."""


def float16_scales(
    scales: npt.NDArray[np.float32], group: int, values: Bytes, weights: Format
) -> npt.NDArray[np.float16]:
    """A scale for each 32 inputs, [outputs, groups of 32], zero where all of the values are.

    Args:
        scales: [outputs, groups]
        group: how many inputs share one of them: a multiple of 32, or all inputs and more.
        values: [outputs, inputs], as in ``lay_out``.

    Raises:
        ValueError: a scale is no float16 and scales what is not zero, or ``group`` is no multiple.
    """
    if group % GROUP and group < values.shape[1]:
        raise ValueError(f"groups of {group} inputs are not made of whole groups of {GROUP}")
    used = (_groups(values, weights) != ZERO[weights]).any(-1)[: len(values), : -(-values.shape[1] // GROUP)]
    wide = np.repeat(scales, -(-group // GROUP), axis=1)[:, : used.shape[1]]
    wanted = np.where(used, wide, np.float32(0))
    with np.errstate(over="ignore"):
        halves = wanted.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), wanted):
        raise ValueError("a scale is not a float16")
    return halves


def lay_out(values: Bytes, scales: npt.NDArray[np.float16], weights: Format, to: Bytes) -> None:
    """Write a matrix as packed.pack would one that it rounds to these values.

    Args:
        values: [outputs, inputs], value + 128 (int8) or + 8 (int4).
        scales: [outputs, groups of 32 inputs].
        to: packed.packed_bytes(outputs, inputs, weights) bytes.
    """
    groups = _groups(values, weights)
    tiles, blocks = -(-len(values) // TILE), groups.shape[1] // 2
    padded = np.zeros((tiles * TILE, blocks * 2), dtype=np.float16)
    padded[: len(scales), : scales.shape[1]] = scales
    out = to.reshape(tiles, blocks, -1)
    lines = padded.reshape(tiles, TILE, blocks, 2).transpose(0, 2, 3, 1)
    out[:, :, :BLOCK] = np.ascontiguousarray(lines).view(np.uint8).reshape(tiles, blocks, BLOCK)
    fours = groups.reshape(tiles, TILE, blocks, 16, 4).transpose(0, 2, 3, 1, 4)
    if weights == "int4":
        fours = fours[:, :, 0::2] | fours[:, :, 1::2] << np.uint8(4)
    out[:, :, BLOCK:] = fours.reshape(tiles, blocks, -1)


def _groups(values: Bytes, weights: Format) -> Bytes:
    """[outputs, groups, 32], both sides padded with zeros to whole tiles and blocks."""
    outputs, inputs = values.shape
    room = ((0, -outputs % TILE), (0, -inputs % BLOCK))
    return np.pad(values, room, constant_values=ZERO[weights]).reshape(outputs + room[0][1], -1, GROUP)
