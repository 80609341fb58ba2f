"""What a run leaves: one row for each (model, precision, workload), in docs/benchmarks.json, raw values included."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a contender says of itself, and what it was given."""

    name: str
    version: str
    runs_as: str
    precision: str
    """As it calls it: bf16, q8_0, int4 ..."""
    weight_bytes: int
    """Of its file, or in memory where it has none."""
    kv: str
    threads: int
    executor: str | None = None
    """Kelm's: native, torch or fallback."""

    @property
    def ours(self) -> bool:
        return self.executor is not None

    @property
    def label(self) -> str:
        """Kelm is shown with the executor that ran, whatever was hoped for."""
        return f"{self.name} ({self.executor})" if self.ours else self.name


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``prefill_s``: until every prompt had a token. ``tokens``: of all streams."""

    prefill_s: float
    total_s: float
    tokens: int
    last: list[int] = []
    """Kelm's: each stream's last token, so that its two ways can be compared."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One contender's part of a row. Lists have one value for each round."""

    facts: Facts
    values: list[float]
    held_bytes: int
    """Memory of its processes, the most after any round (machine.held_bytes)."""
    others: list[float]
    """The share of the machine's cores that somebody else took during each round."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    processor: str
    cores: int
    features: str
    memory_bytes: int
    kernel: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    precision: str
    workload: str
    unit: str
    prompt_source: str
    sides: list[Side]
    bandwidth: list[float]
    """Bytes a second, measured before each run on a buffer of the model's size."""
    absent: dict[str, str] = {}
    """Contenders that did not take part, and why."""
    machine: Machine
    commit: str
    command: str
    date: str


def read(path: Path) -> list[Row]:
    return msgspec.json.decode(path.read_bytes(), type=list[Row]) if path.exists() else []


def merge(rows: list[Row], fresh: list[Row]) -> list[Row]:
    """``fresh`` in the places of the rows that they repeat."""
    kept = {(row.model, row.precision, row.workload): row for row in [*rows, *fresh]}
    return list(kept.values())


def write(path: Path, rows: list[Row]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
