"""The compiled CPU kernels (csrc/), where the install had a compiler; every op has a twin in reference.py.

Arrays are numpy's, or torch tensors on the CPU without a gradient: both are read and written in place through
DLPack, never copied. A result's bits depend on the row alone, not on the batch or the instruction set.

``KELM_ISA`` (``portable``, ``avx2``, ``avx512``) is a developer's setting: it lowers the instruction set, so that a
machine that has the best one can test the others.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, Protocol, cast

from kelm.errors import ConfigError

ISAS = ("portable", "avx2", "avx512")
"""Worst first, numbered as in csrc/isa.hpp; a machine that has one has all before it."""


class _Extension(Protocol):
    def best_isa(self) -> int: ...

    def rms_norm(self, x: Any, weight: Any, out: Any, eps: float, unit_offset: bool, isa: int) -> None: ...


@functools.cache
def _extension() -> _Extension | None:
    try:
        return cast(_Extension, importlib.import_module("kelm._native"))
    except ImportError:
        return None


def _loaded() -> _Extension:
    extension = _extension()
    if extension is None:
        raise ConfigError("Kelm was installed without its native kernels: install a C++ compiler and reinstall")
    return extension


def available() -> bool:
    """Whether this install has the compiled kernels."""
    return _extension() is not None


def machine_isas() -> tuple[str, ...]:
    """The instruction sets that this machine can run, worst first. Empty without the compiled kernels."""
    extension = _extension()
    return ISAS[: extension.best_isa() + 1] if extension else ()


@functools.cache
def isa() -> str:
    """The instruction set in use: the machine's best, or KELM_ISA. Read once.

    Raises:
        ConfigError: KELM_ISA is unknown or more than the machine has, or there are no compiled kernels.
    """
    _loaded()
    usable = machine_isas()
    wanted = os.environ.get("KELM_ISA", usable[-1])
    if wanted not in usable:
        raise ConfigError(f"KELM_ISA is {wanted!r}; this machine has {', '.join(usable)}")
    return wanted


def rms_norm(
    x: Any, weight: Any, eps: float, *, unit_offset: bool = False, out: Any = None, isa_name: str | None = None
) -> Any:
    """Root-mean-square normalisation of each row (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).

    ``out[i] = x[i] / sqrt(mean(x[i]**2) + eps) * g``, with ``g`` the weight, or ``1 + weight`` (Gemma) with
    ``unit_offset``.

    Args:
        x: float32 [rows, hidden], each row contiguous, rows any distance apart.
        weight: float32 [hidden].
        out: float32 [rows, hidden], may be ``x`` itself but must not overlap it otherwise; default: a new array
            of the kind of ``x``.
        isa_name: one of ``machine_isas()``; default ``isa()``.

    Returns:
        ``out``.

    Raises:
        ConfigError: there are no compiled kernels, or KELM_ISA is wrong.
        TypeError: an array is not float32, not on the CPU, read-only (``out``) or of the wrong rank.
        ValueError: shapes do not fit together, or a row is not contiguous.
    """
    extension = _loaded()
    result = _empty_like(x) if out is None else out
    extension.rms_norm(x, weight, result, eps, unit_offset, ISAS.index(isa_name or isa()))
    return result


def _empty_like(x: Any) -> Any:
    if hasattr(x, "new_empty"):  # a torch tensor, without importing torch
        return x.new_empty(x.shape)
    import numpy as np

    return np.empty(x.shape, dtype=x.dtype)
