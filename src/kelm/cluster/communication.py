"""Messages between two nodes: arrays or bytes, told apart by tags. Same pair, same tag: they arrive in order."""

from __future__ import annotations

from torch import Tensor

from kelm import limits
from kelm.cluster.arrays import Array, describe, empty, pack, raw, restore, tensor_of, unpack
from kelm.cluster.group import Group
from kelm.errors import InvalidRequest


class Communication:
    def __init__(self, group: Group) -> None:
        self._group = group

    def send(self, value: Array | bytes, to: int, tag: int = 0) -> None:
        """Returns when the receiver has taken it, so of two nodes that exchange messages one must receive first.

        Raises InvalidRequest, NodeFailed.
        """
        self._check(to, tag, "to")
        doing = f"send to node {to}"
        header, tensor = describe(doing, value), tensor_of(value)
        self._group.doing(doing)
        self._pass(doing, to, pack(header), tag, sending=True)
        self._pass(doing, to, raw(tensor), tag, sending=True)

    def receive(self, source: int, tag: int = 0, timeout_s: float | None = None) -> Array | bytes:
        """The next message from ``source`` with this tag, as the kind of thing that was sent.

        ``timeout_s``: at most, the system's own if None. When it is over the connections are closed: gloo can't take
        a started receive back. Raises InvalidRequest, NodeFailed.
        """
        self._check(source, tag, "source")
        doing = f"receive from node {source}"
        self._group.doing(doing)
        room = pack(describe(doing, None))
        self._pass(doing, source, room, tag, sending=False, timeout_s=timeout_s)
        header = unpack(room)
        tensor = empty(header)
        self._pass(doing, source, raw(tensor), tag, sending=False)
        return restore(header, tensor)

    def _pass(
        self, doing: str, peer: int, tensor: Tensor, tag: int, *, sending: bool, timeout_s: float | None = None
    ) -> None:
        if not tensor.numel():
            return
        gloo, limit_s = self._group.gloo, self._group.timeout_s if timeout_s is None else timeout_s
        start = gloo.send if sending else gloo.recv
        self._group.pass_on(doing, peer, limit_s, lambda: start([tensor], peer, tag))

    def _check(self, peer: int, tag: int, name: str) -> None:
        limits.CLUSTER_TAG.check(tag)
        ok = isinstance(peer, int) and not isinstance(peer, bool) and 0 <= peer < self._group.size
        if not ok or peer == self._group.rank:
            raise InvalidRequest(
                f"{name} must be another node's rank, 0 to {self._group.size - 1} and not {self._group.rank}, "
                f"got {peer!r}",
                param=name,
            )
