"""What this machine grants this process: cores, memory, disk. Read from /proc and cgroups, never guessed.

A container's limits count as the machine's: a cgroup quota of 1.5 cores gives 2 threads, a cgroup memory limit
of 4 GiB is all the memory there is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def affinity_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def cgroup_cores() -> float | None:
    """The tightest CPU quota on the way up the cgroup tree, in cores; None without one."""
    quotas = [
        int(quota) / int(period)
        for quota, _, period in (text.partition(" ") for text in _cgroup_values("cpu.max"))
        if quota.isdigit() and period.isdigit() and int(period) > 0
    ]
    quotas += _cgroup_v1_cores()
    return min(quotas, default=None)


def default_threads() -> int:
    """Threads worth starting: affinity, cut by the cgroup's quota (rounded up), at least one."""
    quota = cgroup_cores()
    cores = affinity_cores()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cgroup_memory_bytes() -> int | None:
    """The tightest memory limit on the way up the cgroup tree, in bytes; None without one."""
    texts = [*_cgroup_values("memory.max"), *_read(CGROUP_ROOT / "memory" / "memory.limit_in_bytes")]
    limits = [int(text) for text in texts if text.isdigit()]
    return min((limit for limit in limits if limit < 1 << 60), default=None)  # v1 writes "no limit" as 2**63 - 4096


def memory_bytes() -> tuple[int, int]:
    """(total, available) bytes of RAM, from /proc/meminfo."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return tuple(int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]


def usable_memory_bytes() -> int:
    """The least of RAM, cgroup limit and what is available now: what a share of memory is a share of."""
    total, available = memory_bytes()
    return min(total, available, cgroup_memory_bytes() or total)


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first core as the system names them (``avx2``, ``avx512f``, ``amx_tile``, ...)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return "unknown"


def _cgroup_values(name: str) -> Iterator[str]:
    """``name`` in this process's cgroup (v2) and in each of its ancestors."""
    for line in _read(Path("/proc/self/cgroup")):
        if line.startswith("0::"):
            group = CGROUP_ROOT / line[3:].lstrip("/")
            for folder in (group, *group.parents):
                if folder == CGROUP_ROOT.parent:
                    return
                yield from _read(folder / name)


def _cgroup_v1_cores() -> list[float]:
    folder = CGROUP_ROOT / "cpu"
    values = [*_read(folder / "cpu.cfs_quota_us"), *_read(folder / "cpu.cfs_period_us")]
    if len(values) == 2 and values[0].isdigit() and int(values[1]) > 0:
        return [int(values[0]) / int(values[1])]
    return []


def _read(path: Path) -> list[str]:
    """Lines of a small kernel file; empty when it is not there."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
