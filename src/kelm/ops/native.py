"""The compiled CPU kernels (csrc/), where the install had a compiler; every op has a twin in reference.py.

Arrays are numpy's, or torch tensors on the CPU without a gradient: both are read and written in place through
DLPack, never copied. A result's bits depend on the row alone, not on the batch or the instruction set.

``KELM_ISA`` (one of ``ISAS``) is a developer's setting: it lowers the instruction set, so that a machine that has the
best one can test the others.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, Protocol, cast

from kelm.errors import ConfigError

ISAS = ("portable", "avx2", "avx_vnni", "avx512", "avx512_vnni", "amx", "amx_emulated")
"""Worst first, numbered as in csrc/isa.hpp. A machine may lack one and have a later one. The last is for tests: what
runs on AMX, with tiles in plain C++."""


class Pool(Protocol):
    """Threads that kernels share (csrc/pool.hpp); ``threads`` counts the caller."""

    @property
    def threads(self) -> int: ...


class Extension(Protocol):
    def machine_isas(self) -> list[int]: ...

    def rms_norm(self, x: Any, weight: Any, out: Any, eps: float, unit_offset: bool, isa: int) -> None: ...

    def ThreadPool(self, threads: int) -> Pool: ...  # noqa: N802

    def packed_bytes(self, outputs: int, inputs: int, format: int) -> int: ...

    def pack(self, pool: Pool, rows: Any, to: Any, format: int) -> None: ...

    def unpack(self, pool: Pool, data: Any, outputs: int, inputs: int, format: int, ids: Any, out: Any) -> None: ...

    def linear(
        self, pool: Pool, x: Any, data: Any, outputs: int, format: int, bias: Any, out: Any, isa: int
    ) -> None: ...

    def read_all(self, pool: Pool, data: Any) -> int: ...

    def Step(  # noqa: N802
        self, ops: Any, scalars: Any, buffers: Any, shapes: Any, matrices: list[Any], vectors: list[Any]
    ) -> Any: ...


@functools.cache
def _extension() -> Extension | None:
    try:
        return cast(Extension, importlib.import_module("kelm._native"))
    except ImportError:
        return None


def loaded() -> Extension:
    """The compiled kernels. Raises ConfigError where the install has none."""
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
    return tuple(ISAS[isa] for isa in extension.machine_isas()) if extension else ()


@functools.cache
def isa() -> str:
    """The instruction set in use: the machine's best, or KELM_ISA. Read once.

    Raises:
        ConfigError: KELM_ISA is unknown or more than the machine has, or there are no compiled kernels.
    """
    loaded()
    usable = tuple(name for name in machine_isas() if name != "amx_emulated")
    wanted = os.environ.get("KELM_ISA", usable[-1])
    if wanted not in usable:
        raise ConfigError(f"KELM_ISA is {wanted!r}; this machine has {', '.join(usable)}")
    return wanted


def pool(threads: int) -> Pool:
    """Threads for the kernels that take a pool, ``threads`` with the caller's own, 1 to 1024; fixed for its life.

    Work is cut in small pieces, so a core lost to something else holds up one piece. Idle threads spin for 50 us and
    then sleep. In a forked child they start anew.

    Raises:
        ConfigError: there are no compiled kernels.
        ValueError: the number is out of range.
        RuntimeError: the system refused another thread.
    """
    return loaded().ThreadPool(threads)


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
    extension = loaded()
    result = _empty_like(x) if out is None else out
    extension.rms_norm(x, weight, result, eps, unit_offset, ISAS.index(isa_name or isa()))
    return result


def _empty_like(x: Any) -> Any:
    if hasattr(x, "new_empty"):  # a torch tensor, without importing torch
        return x.new_empty(x.shape)
    import numpy as np

    return np.empty(x.shape, dtype=x.dtype)
