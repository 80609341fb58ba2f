"""Ray's nodes on this machine: one raylet for each replica, the first beside the control plane. All on 127.0.0.1.

Ray has no supported way to several nodes that only this machine can reach: `ray start` and `ray.init` put the
machine's own address in the place of 127.0.0.1, and then listen on every one. Two things of Ray's own are used instead:
its switch that makes loopback "this machine's address" (made for desktops), and ``ray.cluster_utils.Cluster``, with
which Ray tests itself on several nodes. A test looks what listens.

Ray executes whatever is sent to it: so besides loopback it asks for a token, made anew each time, that only these
processes know. The dashboard, usage statistics and the log monitor are off.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 78_643_200
"""Ray's least: nothing is kept in it."""
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
}


class Nodes:
    """``count`` nodes; a node is known by its place, 0 to ``count`` - 1. Their processes end with this one."""

    def __init__(self, count: int, folder: Path) -> None:
        (folder / "ray").mkdir()
        os.environ.update(ENVIRONMENT, RAY_TMPDIR=str(folder), RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray  # it reads the environment when it is imported
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=_arguments(head=True))
        self._nodes: list[Any] = [self._cluster.head_node]
        ray.init(address=self._cluster.address, namespace="kelm", log_to_driver=False, logging_level=logging.ERROR)
        for _ in range(1, count):
            self._nodes.append(self._cluster.add_node(**_arguments(head=False)))

    def id(self, place: int) -> str:
        """Ray's name for the node."""
        return str(self._nodes[place].node_id)

    def raylet(self, place: int) -> int:
        """Process id of its raylet."""
        return int(self._nodes[place].all_processes["raylet"][0].process.pid)

    def alive(self, place: int) -> bool:
        return not any(kind == "raylet" for kind, _ in self._nodes[place].dead_processes())

    def replace(self, place: int) -> None:
        """A new node where one died; not the first one, with which the control plane goes, and this process."""
        assert place > 0
        self._cluster.remove_node(self._nodes[place], allow_graceful=False)
        self._nodes[place] = self._cluster.add_node(**_arguments(head=False))

    def end(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


def _arguments(*, head: bool) -> dict[str, Any]:
    common = {
        "node_ip_address": "127.0.0.1",
        "num_cpus": 1,
        "num_gpus": 0,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_log_monitor": False,
    }
    return common | ({"include_dashboard": False, "no_monitor": True} if head else {})
