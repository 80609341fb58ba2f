"""The twin of packed.py in plain numpy: the same layouts and the same bits, written to be read (csrc/packed.hpp,
csrc/linear_kernels.hpp). Slow.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kelm.ops.packed import Format

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

TILE = 16
GROUP = 32
BLOCK = {"bf16": 32, "int8": 64, "int4": 64}
"""Inputs of a block."""

_LARGEST_F16 = 65504.0
_LEAST_NORMAL = np.float32(2.0**-126)


def flushed(x: Floats) -> Floats:
    """Denormals as zeros, with their sign."""
    return np.where(np.abs(x) < _LEAST_NORMAL, np.copysign(np.float32(0), x), x).astype(np.float32)


def fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c with one rounding, denormals flushed. The product of two floats is exact in double; the sum is rounded
    to odd there, so that the second rounding can't see the first one.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = np.broadcast_to(c, product.shape).astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = total.view(np.uint64) % 2 == 0
    inexact = np.isfinite(total) & (error != 0) & even
    total = np.where(inexact, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return flushed(total.astype(np.float32))


def round_bf16(x: Floats) -> Floats:
    """To the nearest bf16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    kept = np.where(np.isnan(x), bits | np.uint32(0x400000), nearest) & np.uint32(0xFFFF0000)
    return kept.astype(np.uint32).view(np.float32)


def padded(x: Floats, outputs: int, inputs: int) -> Floats:
    """Zeros behind both sides, up to whole multiples."""
    return np.pad(x, ((0, -x.shape[0] % outputs), (0, -x.shape[1] % inputs)))


def _f16_at_least(x: Floats) -> npt.NDArray[np.float16]:
    """The least float16 that is not less than x, for x in [0, 65504]."""
    near = x.astype(np.float16)
    return np.where(near.astype(np.float32) < x, np.nextafter(near, np.float16(np.inf)), near)


def _peaks(groups: Floats) -> Floats:
    """The value of largest magnitude of each group, the first of several: [..., 32] -> [...]."""
    at = np.abs(groups).argmax(-1)
    peaks: Floats = np.take_along_axis(groups, at[..., None], -1)[..., 0]
    return peaks


def _scales(peaks: Floats, steps: float) -> npt.NDArray[np.float16]:
    magnitude = _f16_at_least((np.abs(peaks) / np.float32(steps)).astype(np.float32))
    return np.where(peaks > 0, -magnitude, magnitude)


def _rounded(groups: Floats, scales: npt.NDArray[np.float16], least: int, most: int) -> Floats:
    with np.errstate(all="ignore"):
        ratio = groups / scales.astype(np.float32)[..., None]
    ratio = np.where(scales[..., None] == 0, np.float32(0), ratio)
    rounded: Floats = np.rint(np.clip(ratio, least, most)).astype(np.float32)
    return rounded


def _int4_scales(groups: Floats) -> npt.NDArray[np.float16]:
    best = least = None
    for quarter in range(28, 37):
        scales = _scales(_peaks(groups), quarter / 4)
        error = np.zeros(groups.shape[:-1], dtype=np.float32)
        values = _rounded(groups, scales, -8, 7) * scales.astype(np.float32)[..., None]
        for k in range(GROUP):
            difference = values[..., k] - groups[..., k]
            error = flushed(error + flushed(difference * difference))
        better = np.ones(error.shape, dtype=bool) if least is None else error < least
        best = scales if best is None else np.where(better, scales, best)
        least = error if least is None else np.where(better, error, least)
    assert best is not None
    return best


def quantize_weights(rows: Floats, weights: Format) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Values [outputs, inputs / 32, 32] and scales [outputs, inputs / 32], both sides padded.

    Raises:
        ValueError: a weight is not finite or too large.
    """
    whole = padded(rows, TILE, BLOCK[weights])
    groups = flushed(whole).reshape(len(whole), whole.shape[1] // GROUP, GROUP)
    limit = _LARGEST_F16 * (128 if weights == "int8" else 7)
    if not (np.abs(groups) <= limit).all():
        raise ValueError("a weight is not finite, or too large for the format")
    if weights == "int8":
        scales = _scales(_peaks(groups), 128)
        return _rounded(groups, scales, -128, 127).astype(np.int8), scales
    scales = _int4_scales(groups)
    return _rounded(groups, scales, -8, 7).astype(np.int8), scales


def pack(rows: Floats, weights: Format) -> Bytes:
    """The bytes of packed.pack, for float32 rows."""
    if weights == "bf16":
        halves = round_bf16(padded(rows, TILE, BLOCK[weights])).view(np.uint32) >> np.uint32(16)
        pairs = halves.astype("<u2").reshape(len(halves) // TILE, TILE, halves.shape[1] // 2, 2)
        return pairs.transpose(0, 2, 1, 3).reshape(-1).view(np.uint8)
    values, scales = quantize_weights(rows, weights)
    tiles, blocks = len(scales) // TILE, scales.shape[1] // 2
    lines = scales.astype("<f2").reshape(tiles, TILE, blocks, 2).transpose(0, 2, 3, 1)
    first = np.ascontiguousarray(lines).view(np.uint8).reshape(tiles, blocks, 64)
    return np.concatenate([first, _fours(values, weights, tiles, blocks)], axis=-1).reshape(-1)


def _fours(values: npt.NDArray[np.int8], weights: Format, tiles: int, blocks: int) -> Bytes:
    """[tiles, blocks, bytes of all lines but the first]."""
    zero = 128 if weights == "int8" else 8
    unsigned = (values.astype(np.int16) + zero).astype(np.uint8)
    lines = unsigned.reshape(tiles, TILE, blocks, 16, 4).transpose(0, 2, 3, 1, 4)
    if weights == "int4":
        lines = (lines[:, :, 0::2] | lines[:, :, 1::2] << 4).astype(np.uint8)
    return lines.reshape(tiles, blocks, math.prod(lines.shape[2:]))


def unpack(rows: Floats, weights: Format) -> Floats:
    """The matrix that packed.unpack gives back after packed.pack of ``rows``."""
    if weights == "bf16":
        return round_bf16(rows)
    values, scales = quantize_weights(rows, weights)
    exact = values.astype(np.float32) * scales.astype(np.float32)[..., None]
    return exact.reshape(len(values), scales.shape[1] * GROUP)[: rows.shape[0], : rows.shape[1]]


def quantize_rows(x: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """Activations [rows, inputs] as int8 values [rows, groups, 32] and scales [rows, groups]; inputs padded to 64."""
    whole = padded(x, 1, BLOCK["int8"])
    groups = flushed(whole).reshape(len(x), whole.shape[1] // GROUP, GROUP)
    with np.errstate(all="ignore"):
        peaks = np.abs(groups).max(-1)
        finite = np.isfinite(groups).all(-1)
        usable = finite & (peaks >= np.float32(2.0**-100))
        by = np.where(usable, np.float32(127) / np.where(usable, peaks, np.float32(1)), np.float32(0))
        q = np.where(usable[..., None], np.rint(groups * by[..., None].astype(np.float32)), 0)
    scales = np.where(usable, peaks * np.float32(1 / 127), np.where(finite, np.float32(0), np.float32(np.nan)))
    return q.astype(np.int32), scales.astype(np.float32)


def linear(x: Floats, rows: Floats, weights: Format, bias: Floats | None = None) -> Floats:
    """packed.linear of packed.pack(rows), on everything but AMX bit for bit."""
    with np.errstate(all="ignore"):
        y = _linear_bf16(x, rows) if weights == "bf16" else _linear_groups(x, rows, weights)
        return y if bias is None else flushed(y + flushed(bias))


def _linear_bf16(x: Floats, rows: Floats) -> Floats:
    w, x = flushed(round_bf16(padded(rows, 1, BLOCK["bf16"]))), flushed(round_bf16(padded(x, 1, BLOCK["bf16"])))
    y = np.zeros((len(x), len(w)), dtype=np.float32)
    for k in range(w.shape[1]):
        y = fma(x[:, k, None], w[None, :, k], y)
    return y


def _linear_groups(x: Floats, rows: Floats, weights: Format) -> Floats:
    values, weight_scales = quantize_weights(rows, weights)
    q, scales = quantize_rows(x)
    y = np.zeros((len(x), len(values)), dtype=np.float32)
    for g in range(q.shape[1]):
        exact = (q[:, g] @ values[:, g].astype(np.int32).T).astype(np.float32)
        scale = flushed(weight_scales[None, :, g].astype(np.float32) * scales[:, g, None])
        y = fma(exact, scale, y)
    return y[:, : len(rows)]
