"""torch.distributed's parts under one roof: its stubs hide some names, and lack a backend's methods."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
    DistStoreError,
    PrefixStore,
    ProcessGroupGloo,
    ReduceOp,
    TCPStore,
    Work,
)

__all__ = ["DistError", "DistStoreError", "ReduceOp", "TCPStore", "Work", "appears", "gloo", "put"]


def put(store: TCPStore, key: str, value: bytes) -> None:
    """As ``store.set``, whose stub knows text only."""
    store.set(key, value)  # type: ignore[arg-type]


def appears(store: TCPStore, key: str, timeout_s: float) -> bool:
    """Wait until ``key`` is there; False when it is not in time."""
    try:
        store.wait([key], timedelta(seconds=timeout_s))
    except DistStoreError:
        return False
    return True


def gloo(store: TCPStore, rank: int, nodes: int, host: str, timeout_s: float) -> Any:
    """A gloo group of its own: a caller's own use of torch.distributed is not touched. RuntimeError when the nodes
    can't be connected."""
    options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = timedelta(seconds=timeout_s)
    options._devices = [ProcessGroupGloo.create_device(hostname=host)]  # torch's default may be any network's
    return ProcessGroupGloo(PrefixStore("gloo/", store), rank, nodes, options)
