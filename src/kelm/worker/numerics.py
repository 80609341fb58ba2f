"""The numerics id: workers with the same id give the same bits. Comes back to clients as ``system_fingerprint``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from kelm.ops import native

OPS = 2
"""Raised with every change of an op or of the sampler that can change a bit."""

_ISA = ("amx_tile", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


def numerics_id(threads: int, executor: str = "auto") -> str:
    """From installed versions and the processor's flags; imports no tensor library.

    ``threads`` is part of it: torch may cut a matrix product differently for another number of threads. ``executor``:
    EngineSettings.executor.
    """
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    kernels = f"native.{native.isa()}.{executor}" if native.available() else "twin"
    return f"ops{OPS}-{kernels}-numpy{np.__version__}-torch{torch}-{_instruction_set()}-{threads}t"


def _instruction_set() -> str:
    """The best of those that matrix libraries switch on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return next((name for name in _ISA if name in flags), "base")
