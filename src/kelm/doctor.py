"""What this machine has and lacks for running Kelm: `kelm doctor`.

A finding's state: ``has``, ``notes`` (works, but slower or with less), ``lacks`` (nothing works without it).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from kelm import machine
from kelm.config import Settings
from kelm.errors import KelmError

OLDEST_PYTHON = (3, 11)
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve")
"""CPU features that native ops use or will; the first two are what a useful x86 has."""
LITTLE_DISK_BYTES = 1 << 30
LITTLE_MEMORY_BYTES = 512 << 20
MODULES = ("fastapi", "uvicorn", "msgspec", "tokenizers", "huggingface_hub", "safetensors", "yaml", "rich", "numpy")


@dataclass(frozen=True, slots=True)
class Finding:
    state: str
    what: str
    found: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Every check; none of them changes anything but an absent home, which is made."""
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _python,
        _packages,
        _torch,
        _native,
        _processor,
        _cores,
        _memory,
        _home,
        _disk,
        _models,
        _images,
        _daemon,
    )
    return [check(settings) for check in checks]


def _python(settings: Settings) -> Finding:
    state = "has" if sys.version_info >= OLDEST_PYTHON else "lacks"
    return Finding(state, "python", f"{platform.python_version()} ({sys.executable})")


def _packages(settings: Settings) -> Finding:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("lacks", "packages", f"missing: {', '.join(missing)}; install Kelm again")
    return Finding("has", "packages", "all there")


def _torch(settings: Settings) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("lacks", "torch", "not installed: pip install 'kelm[torch]'")
    from importlib.metadata import version

    return Finding("has", "torch", version("torch"))


def _native(settings: Settings) -> Finding:
    from kelm.ops import native

    if not native.available():
        return Finding("notes", "native ops", "not built (no C++ compiler at install): the torch ops are used")
    try:
        return Finding("has", "native ops", f"{native.isa()} of {', '.join(native.machine_isas())}")
    except KelmError as error:
        return Finding("lacks", "native ops", error.message)


def _processor(settings: Settings) -> Finding:
    flags = machine.cpu_flags()
    features = [name for name in FEATURES if name in flags]
    return Finding(
        "has" if features else "notes", "processor", f"{machine.cpu_model()}: {' '.join(features) or 'none'}"
    )


def _cores(settings: Settings) -> Finding:
    quota = machine.cgroup_cores()
    limit = "no quota" if quota is None else f"a quota of {quota:g}"
    found = f"{os.cpu_count()} in all, {machine.affinity_cores()} allowed, {limit}: {settings.threads} threads"
    return Finding("notes" if settings.threads > machine.affinity_cores() else "has", "cores", found)


def _memory(settings: Settings) -> Finding:
    total, available = machine.memory_bytes()
    limit = machine.cgroup_memory_bytes()
    shown = f", cgroup limit {_gib(limit)}" if limit is not None else ""
    state = "lacks" if settings.memory < LITTLE_MEMORY_BYTES else "has"
    return Finding(
        state, "memory", f"{_gib(total)} in all, {_gib(available)} free{shown}: budget {_gib(settings.memory)}"
    )


def _home(settings: Settings) -> Finding:
    from kelm.store import Store

    try:
        Store(settings.home)
        if not os.access(settings.home, os.W_OK):
            return Finding("lacks", "home", f"{settings.home} can't be written")
    except KelmError as error:
        return Finding("lacks", "home", error.message)
    return Finding("has", "home", str(settings.home))


def _disk(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    return Finding("notes" if free < LITTLE_DISK_BYTES else "has", "disk", f"{_gib(free)} free")


def _models(settings: Settings) -> Finding:
    from kelm.store import Store

    try:
        names = [name.short for name in Store(settings.home).names()]
    except KelmError as error:
        return Finding("lacks", "models", error.message)
    return Finding("has" if names else "notes", "models", ", ".join(names) or "none: kelm pull ORG/NAME")


def _images(settings: Settings) -> Finding:
    """Reads all of them."""
    from kelm.store import Store
    from kelm.store.images import ImageFile, found

    held, wrong = 0, []
    try:
        places = list(found(Store(settings.home).home.images))
    except KelmError as error:
        return Finding("lacks", "images", error.message)
    for place in places:
        try:
            file = ImageFile(place)
            file.verify()
            held += file.size_bytes
        except KelmError as error:
            wrong.append(error.message)
    return Finding("notes" if wrong else "has", "images", "; ".join(wrong) or f"{len(places)} whole, {_gib(held)}")


def _daemon(settings: Settings) -> Finding:
    from kelm.kernel import daemonfile

    owner = daemonfile.owner(settings.home)
    found = "not running: kelm serve -d" if owner is None else f"pid {owner.pid} at {owner.address}"
    return Finding("has" if owner else "notes", "daemon", found)


def _gib(size_bytes: Any) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
