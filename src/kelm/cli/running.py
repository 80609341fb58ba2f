"""Commands about what the daemon runs: ps, nice, why, stop."""

from __future__ import annotations

from kelm.cli.client import Json, find
from kelm.cli.tables import count, print_json, print_table, size
from kelm.config import load_settings
from kelm.store import Name


def ps(models: bool, tenants: bool, as_json: bool) -> None:
    kind = "models" if models else "tenants" if tenants else "processes"
    rows = find(load_settings()).call("GET", f"/admin/{kind}")[kind]
    if as_json:
        print_json(rows)
    elif models:
        model_columns = ("MODEL", "STATE", "EXECUTOR", "DTYPE", "PARAMETERS", "WEIGHTS", "CONTEXT", "REQUESTS")
        print_table(model_columns, [_model(row) for row in rows])
    elif tenants:
        print_table(
            ("TENANT", "WEIGHT", "RUNNING", "PARKED", "PAUSED", "QUEUED", "TOKENS", "WANTED", "SERVED"),
            [_tenant(row) for row in rows],
        )
    else:
        columns = (
            *("PID", "MODEL", "KIND", "STATE", "PRIORITY", "TENANT", "EXECUTOR", "PROMPT", "CACHED", "GENERATED"),
            "SECONDS",
        )
        print_table(columns, [_process(row) for row in rows])


def nice(pid: int, priority: int) -> None:
    row = find(load_settings()).call("POST", f"/admin/processes/{pid}/nice", {"priority": priority})
    print(f"process {pid} has priority {row['priority']}")


def why(pid: int, as_json: bool) -> None:
    row = find(load_settings()).call("GET", f"/admin/processes/{pid}/why")
    print_json(row) if as_json else print(row["text"])


def stop(model: str) -> None:
    find(load_settings()).call("POST", "/admin/models/unload", {"model": model})
    print(f"{Name.parse(model).short} was unloaded")


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
    )


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
        row["max_context_tokens"],
        row["processes"],
    )
