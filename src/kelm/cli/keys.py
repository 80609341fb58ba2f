"""Commands about API keys: create, list, revoke. They write KELM_HOME themselves; no daemon has to run."""

from __future__ import annotations

import sys

from kelm.cli.tables import ago, print_json, print_table
from kelm.clock import SYSTEM
from kelm.config import load_settings
from kelm.kernel.keys import Key, Keys


def create(tenant: str, weight: int | None, as_json: bool) -> None:
    keys = _keys()
    key, text = keys.create(tenant, weight)
    weight = keys.weights()[tenant]
    if as_json:
        print_json({"key": text, "weight": weight, **_row(key)})
    else:
        print(text)
        print(f"key {key.id} of tenant {tenant}, weight {weight}; it is not shown again", file=sys.stderr)


def list_(as_json: bool) -> None:
    keys = _keys()
    weights, rows = keys.weights(), keys.list()
    if as_json:
        print_json([{**_row(key), "weight": weights[key.tenant]} for key in rows])
        return
    now = SYSTEM.wall_s()
    table = [
        (key.id, key.tenant, weights[key.tenant], ago(now - key.created), None if key.revoked is None else "revoked")
        for key in rows
    ]
    print_table(("ID", "TENANT", "WEIGHT", "CREATED", "STATE"), table)


def revoke(identity: str) -> None:
    key = _keys().revoke(identity)
    print(f"key {key.id} of tenant {key.tenant} opens nothing any more")


def _keys() -> Keys:
    return Keys(load_settings().home)


def _row(key: Key) -> dict[str, object]:
    return {"id": key.id, "tenant": key.tenant, "created": key.created, "revoked": key.revoked}
