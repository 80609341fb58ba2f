"""The process that keeps replicas alive through Ray.  python -m kelm.replicas.keeper FD

One node for each replica, one actor on each node, one daemon of each actor. Whatever of the three dies, the replica is
lost and made anew, after a pause that doubles while it does not come up; with the first node this process dies, and the
door starts the next one. The door hears of every change over the socket, on which it has sent the configuration. When
the door is gone, the socket's end ends this process, and that ends Ray's, the actors and the daemons.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kelm import limits
from kelm.clock import SYSTEM
from kelm.errors import KelmError
from kelm.replicas import homes, nodes
from kelm.replicas.messages import Broken, Configuration, Replica, Report
from kelm.replicas.replica import ReplicaActor, Up
from kelm.store import Store
from kelm.wire.framing import Reader, encode

log = logging.getLogger(__name__)
_LOOK_S = 0.2
_MOST_DOUBLINGS = 10


class Slot:
    """One replica's place: its node, its actor, and what it waits for."""

    def __init__(
        self, place: int, there: nodes.Nodes, settings: Configuration, report: Callable[[Report], None]
    ) -> None:
        self.name = f"replica-{place}"
        self._place, self._nodes, self._settings, self._report = place, there, settings, report
        self._home = str(homes.share(Store(Path(settings.home)), self.name))
        self._actor: Any = None
        self._pending: Any = None
        self._up = False
        self._failures = 0
        self._not_before_s = 0.0

    def look(self) -> None:
        """Start what is not there, notice what is gone, report what is up. Waits for a new node, never for a daemon."""
        import ray

        if self._actor is None:
            if SYSTEM.monotonic_s() >= self._not_before_s:
                self._start()
        elif not self._nodes.alive(self._place):
            self._lose("its node died")
        elif ray.wait([self._pending], timeout=0)[0]:
            self._take()

    def _start(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not self._nodes.alive(self._place):
            self._nodes.replace(self._place)
        here = NodeAffinitySchedulingStrategy(self._nodes.id(self._place), soft=False)
        made = ray.remote(num_cpus=1, max_restarts=0)(ReplicaActor).options(scheduling_strategy=here)
        settings = msgspec.json.encode(self._settings.settings)
        self._actor = made.remote(self._home, self._settings.model, settings)
        self._pending = self._actor.start.remote()
        self._report(Replica(self.name, "starting", node=self._nodes.id(self._place)))

    def _take(self) -> None:
        """Its call has returned: it is up, or it has ended, or died."""
        import ray

        try:
            result = ray.get(self._pending)
        except ray.exceptions.RayError as error:
            self._lose(f"its actor died ({type(error).__name__})")
            return
        if isinstance(result, int):
            self._lose(f"its daemon ended ({result})")
            return
        up = msgspec.json.decode(result, type=Up)
        if up.error:
            self._lose(up.error)
            return
        self._up, self._failures = True, 0
        self._pending = self._actor.watch.remote()
        pids = {"raylet": self._nodes.raylet(self._place), "actor": up.actor, "daemon": up.daemon}
        self._report(Replica(self.name, "up", up.url, self._nodes.id(self._place), pids))

    def _lose(self, why: str) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self._actor)
        self._actor = self._pending = None
        pause = limits.REPLICA_PAUSE_S
        pause_s = 0.0 if self._up else min(pause.value * 2**self._failures, pause.most)
        self._failures = min(self._failures + (not self._up), _MOST_DOUBLINGS)
        self._up, self._not_before_s = False, SYSTEM.monotonic_s() + pause_s
        log.warning("replica_lost name=%s reason=%r", self.name, why)
        self._report(Replica(self.name, "lost", why=why))


def keep(door: socket.socket, settings: Configuration) -> None:
    """Until the door closes its end."""

    def report(what: Report) -> None:
        door.sendall(encode(what))

    try:
        there = nodes.Nodes(settings.replicas, Path(settings.ray))
    except Exception as error:
        log.exception("ray_failed")
        report(Broken(f"Ray did not start ({type(error).__name__}); the lines above say why"))
        raise SystemExit(1) from None
    try:
        slots = [Slot(place, there, settings, report) for place in range(settings.replicas)]
        while not select.select([door], [], [], _LOOK_S)[0]:
            for slot in slots:
                slot.look()
    finally:
        there.end()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s keeper %(levelname)s %(message)s", stream=sys.stderr)
    with socket.socket(fileno=int(sys.argv[1])) as door:
        try:
            keep(door, _configuration(door))
        except (BrokenPipeError, ConnectionResetError):
            return 0
        except KelmError as error:
            log.error("keeper_failed reason=%r", error.message)
            return 1
    return 0


def _configuration(door: socket.socket) -> Configuration:
    reader = Reader[Configuration](Configuration)
    while True:
        data = door.recv(1 << 16)
        if not data:
            raise BrokenPipeError
        for message in reader.feed(data):
            return message


if __name__ == "__main__":
    sys.exit(main())
