"""Bring a model into the daemon's memory and show how far it is."""

from __future__ import annotations

import threading

from kelm.cli.client import Client, Json
from kelm.cli.tables import progress
from kelm.errors import KelmError
from kelm.store import Name

_LOOK_S = 0.2


def bring_up(client: Client, model: str) -> Json:
    """The daemon's line about ``model`` once it is resident. Raises what the load fails with."""
    name = str(Name.parse(model))
    found = _row(client, name)
    if found is not None and found["state"] == "resident":
        return found
    outcome: list[KelmError] = []

    def load() -> None:
        try:
            client.call("POST", "/admin/models/load", {"model": model})
        except KelmError as error:
            outcome.append(error)

    loader = threading.Thread(target=load, daemon=True)
    loader.start()
    with progress(model) as report:
        while loader.is_alive():
            row = _row(client, name)
            if row is not None and row["total_bytes"]:
                report("loading", row["done_bytes"], row["total_bytes"])
            loader.join(_LOOK_S)
    if outcome:
        raise outcome[0]
    return _row(client, name) or {}


def _row(client: Client, name: str) -> Json | None:
    rows: list[Json] = client.call("GET", "/admin/models")["models"]
    return next((row for row in rows if row["name"] == name), None)
