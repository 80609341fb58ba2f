"""The worker's command line, read here and written by whoever starts workers: ``arguments`` and ``parse`` are each
other's inverse."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from kelm.worker.settings import EngineSettings

_NUMBERS = [field.name for field in fields(EngineSettings) if field.name not in ("poison", "executor")]


def arguments(settings: EngineSettings) -> list[str]:
    """Flags for ``python -m kelm.worker``; the socket's descriptor goes behind them."""
    flags: list[str] = []
    for name in _NUMBERS:
        value = getattr(settings, name)
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return [*flags, "--executor", settings.executor] + (["--poison"] if settings.poison else [])


def parse(argv: Sequence[str]) -> tuple[int, EngineSettings]:
    """(descriptor, settings). Exits with 2 and a usage message when they are wrong."""
    parser = argparse.ArgumentParser("kelm.worker", description="A Kelm worker; started by the daemon.")
    for name in _NUMBERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--executor", default=argparse.SUPPRESS)
    parser.add_argument("--poison", action="store_true")
    parser.add_argument("descriptor", type=int, help="number of the inherited socket")
    given = vars(parser.parse_args(argv))
    descriptor = given.pop("descriptor")
    if "memory_bytes" not in given:
        parser.error("--memory-bytes is required")
    return descriptor, EngineSettings(**given)
