"""How the nodes of a cluster find one another: one store, held by node 0, where each node claims its rank.

    node 0    listens, writes what all must agree on (how many nodes), claims rank 0
    node r    connects, compares, claims rank r; a second one with the same rank is refused
    each      waits until every rank is claimed, and names those that are missing when time is up

The meeting point is an address, or a file that node 0 writes once it listens: ``{"address": "127.0.0.1:4242", "token":
...}``, readable by its owner only. The token tells node 0 from whoever got its port after it was gone.

torch's store and its connections know no passwords and no encryption: whoever can connect can write. So they are
opened on this machine only, and another address is refused.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec

from kelm import limits
from kelm.clock import SYSTEM
from kelm.cluster.backend import DistError, TCPStore
from kelm.errors import InvalidRequest, NodeFailed
from kelm.store.atomic import disk_errors, write_file

_LOOK_S = 0.02
_TRY_S = 2.0
"""One attempt at an address."""
_NODES, _TOKEN, _REFUSAL = "join/nodes", "join/token", "join/refusal"
_BACKLOG = 128


class Address(msgspec.Struct, frozen=True):
    """Where node 0 listens. ``token``: what its store must hold; empty where none was handed over."""

    address: str
    token: str = ""


class Member(msgspec.Struct, frozen=True):
    """A node that has joined, as the others name it."""

    rank: int
    host: str
    pid: int
    token: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    """A process may try twice."""

    def __str__(self) -> str:
        return f"node {self.rank} (pid {self.pid} on {self.host})"


@dataclass(frozen=True, slots=True)
class Seat:
    """What a node is told: its rank, how many there are, and where they meet."""

    rank: int
    nodes: int
    at: str | Path
    """``HOST:PORT``, or the path of a file."""

    def check(self) -> None:
        """Raises InvalidRequest."""
        limits.CLUSTER_NODES.check(self.nodes)
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 0 <= self.rank < self.nodes:
            raise InvalidRequest(f"rank must be 0 to {self.nodes - 1}, got {self.rank!r}", param="rank")
        if isinstance(self.at, str):
            host_and_port(self.at)


class Meeting:
    """Everybody is here. ``store`` is this node's connection; ``connect`` makes another: one that waits is of no use
    to others. On node 0 ``store`` is the store itself, which ends with ``close``."""

    def __init__(self, store: TCPStore, members: tuple[Member, ...], connect: Callable[[], TCPStore]) -> None:
        self.members = members
        self._store: TCPStore | None = store
        self._connect = connect

    @property
    def store(self) -> TCPStore:
        if self._store is None:
            raise NodeFailed("this system is closed; join again")
        return self._store

    def connect(self) -> TCPStore:
        assert self.store is not None
        return self._connect()

    def close(self) -> None:
        self._store = None


def host_and_port(text: str) -> tuple[str, int]:
    """Raises InvalidRequest for what is not ``HOST:PORT``, and for a host that is not this machine itself."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > limits.PORT.most:
        raise InvalidRequest(f"at must be HOST:PORT or the path of a file, got {limits.shown(text)}", param="at")
    host = host.strip("[]")
    with suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return "127.0.0.1" if host == "localhost" else host, int(port)
    raise InvalidRequest(
        f"at is {limits.shown(text)}, which other machines can reach: torch's store and gloo let in whoever connects, "
        "so nodes meet on 127.0.0.1 only in this version",
        param="at",
    )


def meet(seat: Seat, timeout_s: float) -> Meeting:
    """Join and wait for the others.

    Raises InvalidRequest (wrong rank, nodes or address; the rank is taken; the nodes disagree) and NodeFailed, which
    names the node that did not come within ``timeout_s``.
    """
    seat.check()
    deadline_s = SYSTEM.monotonic_s() + timeout_s
    if seat.rank == 0:
        store, connect = _host(seat, timeout_s)
    else:
        store, connect = _visit(seat, deadline_s, timeout_s)
    try:
        _agree(store, seat)
        _claim(store, Member(seat.rank, socket.gethostname(), os.getpid()))
        return Meeting(store, _gather(store, seat, deadline_s, timeout_s), connect)
    except DistError:
        raise NodeFailed(
            "node 0 went away while the nodes were joining: see what it says, and start all again"
        ) from None


def _host(seat: Seat, timeout_s: float) -> tuple[TCPStore, Callable[[], TCPStore]]:
    host, port = host_and_port(seat.at) if isinstance(seat.at, str) else ("127.0.0.1", 0)
    if isinstance(seat.at, Path):
        _refuse_second_host(seat.at)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        # Ours, because TCPStore would listen on every address of the machine.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise InvalidRequest(
                f"node 0 can't listen on {host}:{port} ({error.strerror}): is another node 0 running there?", param="at"
            ) from None
        port = listener.getsockname()[1]
        store = TCPStore(
            host,
            port,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    token = secrets.token_hex(16)
    store.set(_TOKEN, token)
    store.set(_NODES, str(seat.nodes))
    if isinstance(seat.at, Path):
        with disk_errors(f"{seat.at} can't be written"):
            write_file(seat.at, msgspec.json.encode(Address(f"{host}:{port}", token)))
            seat.at.chmod(0o600)
    return store, partial(_again, host, port, timeout_s)


def _refuse_second_host(path: Path) -> None:
    """A file that a living node 0 stands behind is not overwritten; a stale one is."""
    found = _read(path)
    if found is None:
        return
    with suppress(DistError, InvalidRequest):
        if _answers(_connect(*host_and_port(found.address), _TRY_S), found.token):
            raise NodeFailed(f"rank 0 is taken: another node 0 listens at {found.address}, as {path} says")


def _visit(seat: Seat, deadline_s: float, timeout_s: float) -> tuple[TCPStore, Callable[[], TCPStore]]:
    """A connection to node 0, tried until time is up: it may not be there yet, and a file may be an old one."""
    where = str(seat.at)
    while True:
        left_s = deadline_s - SYSTEM.monotonic_s()
        if left_s <= 0:
            raise NodeFailed(
                f"node 0 does not answer at {where} (waited {timeout_s:g} s): start it first, with the same address"
            )
        found = Address(seat.at) if isinstance(seat.at, str) else _read(seat.at)
        if found is None:
            SYSTEM.sleep_s(_LOOK_S)
            continue
        host, port = host_and_port(found.address)
        with suppress(DistError):
            store = _connect(host, port, min(left_s, _TRY_S))
            if _answers(store, found.token):
                store.set_timeout(timedelta(seconds=timeout_s))
                return store, partial(_again, host, port, timeout_s)
        SYSTEM.sleep_s(_LOOK_S)


def _answers(store: TCPStore, token: str) -> bool:
    """Whether it is a store of ours, and the one that ``token`` was handed out for."""
    store.wait([_TOKEN, _NODES], timedelta(seconds=_TRY_S))
    return token in ("", store.get(_TOKEN).decode())


def _connect(host: str, port: int, timeout_s: float) -> TCPStore:
    """Raises DistError. A port where nobody listens is not waited for; and as TCPStore waits for ever for the answer
    of one who listens and says nothing, it does so in a thread that is left behind then."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError as error:
        raise DistError(f"{host}:{port}: {error}") from None
    made: list[TCPStore | DistError] = []

    def make() -> None:
        try:
            made.append(
                TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
            )
        except DistError as error:
            made.append(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(timeout_s)
    result = made[0] if made else DistError(f"{host}:{port} does not answer")
    if isinstance(result, DistError):
        raise result
    return result


def _again(host: str, port: int, timeout_s: float) -> TCPStore:
    """One more connection to a store that answers: it is there at once, or node 0 is gone."""
    store = _connect(host, port, _TRY_S)
    store.set_timeout(timedelta(seconds=timeout_s))
    return store


def _read(path: Path) -> Address | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Address)
    except (OSError, msgspec.DecodeError):
        return None


def _agree(store: TCPStore, seat: Seat) -> None:
    wanted = int(store.get(_NODES))
    if wanted != seat.nodes:
        words = f"node {seat.rank} was started for {seat.nodes} nodes, node 0 for {wanted}: give all the same number"
        store.set(_REFUSAL, words)
        raise InvalidRequest(words, param="nodes")


def _claim(store: TCPStore, me: Member) -> None:
    mine = msgspec.json.encode(me).decode()
    holder = store.compare_set(f"join/{me.rank}", "", mine).decode()
    if holder != mine:
        other = msgspec.json.decode(holder, type=Member)
        raise InvalidRequest(f"rank {me.rank} is taken by {other}: give each node a rank of its own", param="rank")


def _gather(store: TCPStore, seat: Seat, deadline_s: float, timeout_s: float) -> tuple[Member, ...]:
    keys = [f"join/{rank}" for rank in range(seat.nodes)]
    while not store.check(keys):
        if store.check([_REFUSAL]):
            raise InvalidRequest(store.get(_REFUSAL).decode(), param="nodes")
        if SYSTEM.monotonic_s() > deadline_s:
            missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
            raise NodeFailed(
                f"{_nodes(missing)} of {seat.nodes} did not join at {seat.at} within {timeout_s:g} s: "
                f"start what is missing, with the same address and nodes={seat.nodes}"
            )
        SYSTEM.sleep_s(_LOOK_S)
    return tuple(msgspec.json.decode(store.get(key), type=Member) for key in keys)


def _nodes(ranks: list[int]) -> str:
    return f"node{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
