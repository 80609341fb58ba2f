"""``DistributedSystem``: several processes that share values, compute together and send one another messages.

    with DistributedSystem(rank, nodes, "127.0.0.1:29500") as system:      # in each process, with a rank of its own
        system.store.put("step", 7)
        total = system.compute.all_reduce(np.ones(3))
        system.communication.send(total, to=1)

torch.distributed underneath: its TCPStore for the values, a gloo group for the rest. Nothing is pickled. Everything
listens on 127.0.0.1.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from kelm import limits
from kelm.cluster.communication import Communication
from kelm.cluster.compute import Compute
from kelm.cluster.group import Group
from kelm.cluster.pulse import Pulse
from kelm.cluster.rendezvous import Member, Seat, meet
from kelm.cluster.shared_store import SharedStore
from kelm.errors import NodeFailed

HOST = "127.0.0.1"


class DistributedSystem:
    """One node's part of it; a context manager, one thread at a time (but for ``store``).

    ``at``: ``HOST:PORT`` of node 0, or the path of a file on which node 0 says where it listens.

    Raises InvalidRequest (rank, nodes, address; a rank that is taken; nodes that disagree) and NodeFailed, which names
    who did not come. ``timeout_s`` bounds every later operation too.
    """

    def __init__(
        self,
        rank: int,
        nodes: int,
        at: str | Path,
        *,
        timeout_s: float | None = None,
        join_timeout_s: float | None = None,
    ) -> None:
        timeout_s = limits.CLUSTER_OP_S.value if timeout_s is None else timeout_s
        join_timeout_s = limits.CLUSTER_JOIN_S.value if join_timeout_s is None else join_timeout_s
        limits.CLUSTER_OP_S.check(timeout_s)
        limits.CLUSTER_JOIN_S.check(join_timeout_s)
        meeting = meet(Seat(rank, nodes, at), join_timeout_s)
        self.rank, self.nodes, self.members = rank, nodes, meeting.members
        self._meeting, self._timeout_s = meeting, timeout_s
        self._pulse = Pulse(meeting, rank)
        try:
            self._group = Group(meeting, rank, HOST, timeout_s, self._pulse)
        except BaseException:
            self._pulse.stop()
            raise
        self.store = SharedStore(meeting, timeout_s)
        self.compute = Compute(self._group)
        self.communication = Communication(self._group)

    def close(self, *, wait: bool = True) -> None:
        """Leave. Node 0 takes the store with it, so it waits first, if ``wait``, until the others have left or died:
        for the time of an operation at most, for a moment when something has failed."""
        self.store.close()
        if self.rank == 0 and wait:
            self._pulse.outlive(self._timeout_s)
        self._pulse.stop()
        self._group.close()
        self._meeting.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(wait=kind is None or issubclass(kind, NodeFailed))


__all__ = ["DistributedSystem", "Member"]
