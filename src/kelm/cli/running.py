"""Commands about what the daemon runs: ps, cancel, nice, why, stop."""

from __future__ import annotations

from typing import Literal

from kelm.cli.client import Json, find
from kelm.cli.tables import count, print_json, print_table, size
from kelm.config import load_settings
from kelm.store import Name

Kind = Literal["processes", "models", "tenants"]

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "processes": (
        *("PID", "MODEL", "KIND", "STATE", "PRIORITY", "TENANT", "EXECUTOR", "PROMPT", "CACHED", "GENERATED"),
        *("SECONDS", "PROGRESS"),
    ),
    "models": ("MODEL", "STATE", "EXECUTOR", "DTYPE", "PARAMETERS", "WEIGHTS", "SHARED", "CONTEXT", "REQUESTS"),
    "tenants": ("TENANT", "WEIGHT", "RUNNING", "PARKED", "PAUSED", "QUEUED", "TOKENS", "WANTED", "SERVED"),
}


def ps(kind: Kind, ended: bool, as_json: bool) -> None:
    """``ended``: jobs that have ended too."""
    client = find(load_settings())
    rows = client.call("GET", f"/admin/{kind}")[kind]
    if ended and kind == "processes":
        rows = _merged(rows, client.call("GET", "/admin/jobs")["jobs"])
    if as_json:
        print_json(rows)
        return
    line = {"processes": _process, "models": _model, "tenants": _tenant}[kind]
    print_table(COLUMNS[kind], [line(row) for row in rows])


def cancel(pid: int) -> None:
    state = find(load_settings()).call("POST", f"/admin/processes/{pid}/cancel", {})["state"]
    print(f"{pid} was cancelled" if state == "cancelled" else f"{pid} had ended already: {state}")


def progress_of(row: Json) -> str:
    """How far a job is, in a few words; empty for what has no progress."""
    if row.get("error"):
        return str(row["error"]["message"])
    progress = row.get("progress")
    if not progress:
        return ""
    share = f"{progress['done'] / progress['total']:.0%}" if progress["total"] else ""
    figures = (f"{name} {value:.4g}" for name, value in progress["figures"].items())
    return "  ".join(part for part in (share, progress["note"], *figures) if part)


def nice(pid: int, priority: int) -> None:
    row = find(load_settings()).call("POST", f"/admin/processes/{pid}/nice", {"priority": priority})
    print(f"process {pid} has priority {row['priority']}")


def why(pid: int, as_json: bool) -> None:
    row = find(load_settings()).call("GET", f"/admin/processes/{pid}/why")
    print_json(row) if as_json else print(row["text"])


def stop(model: str) -> None:
    """A variant needs its base's weights: they go together."""
    gone = find(load_settings()).call("POST", "/admin/models/unload", {"model": model})["unloaded"]
    for name in dict.fromkeys(Name.parse(name).short for name in gone):
        print(f"{name} was unloaded")


def _process(row: Json) -> tuple[object, ...]:
    return (
        row["pid"],
        Name.parse(row["model"]).short,
        row["kind"],
        row["state"],
        row["priority"],
        row["tenant"],
        row["executor"],
        row["prompt_tokens"],
        row["cached_tokens"],
        row["generated_tokens"],
        round(row["seconds"], 1),
        progress_of(row),
    )


def _merged(processes: list[Json], jobs: list[Json]) -> list[Json]:
    by_pid = {row["pid"]: row for row in (*processes, *jobs)}
    return [by_pid[pid] for pid in sorted(by_pid)]


def _tenant(row: Json) -> tuple[object, ...]:
    counts = (row[state] for state in ("running", "parked", "paused", "queued"))
    shares = (None if row[share] is None else f"{row[share]:.0%}" for share in ("share_wanted", "share_served"))
    return (row["tenant"], row["weight"], *counts, row["served_tokens"], *shares)


def _model(row: Json) -> tuple[object, ...]:
    return (
        Name.parse(row["name"]).short,
        row["state"],
        row["executor"],
        row["dtype"],
        None if row["parameters"] is None else count(row["parameters"]),
        None if row["weight_bytes"] is None else size(row["weight_bytes"]),
        size(row["shared_bytes"]) if row["shared_bytes"] else None,
        row["max_context_tokens"],
        row["processes"],
    )
