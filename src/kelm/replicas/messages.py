"""What the keeper tells the door, in the frames of wire/framing.py."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["starting", "up", "lost"]


class Configuration(msgspec.Struct, frozen=True):
    """What the keeper is told, over its socket: a key must not be seen in a list of processes."""

    home: str
    model: str
    replicas: int
    settings: dict[str, str]
    """Of each daemon: KELM_* without the prefix, in small letters."""
    ray: str
    """The folder of Ray's sockets and logs."""


class Replica(msgspec.Struct, frozen=True, tag=True):
    """A replica's state changed. ``url`` when it is up. ``pids``: of its node's raylet, its actor and its daemon."""

    name: str
    state: State
    url: str = ""
    node: str = ""
    pids: dict[str, int] = {}
    why: str = ""


class Broken(msgspec.Struct, frozen=True, tag=True):
    """Ray could not be started."""

    message: str


Report = Replica | Broken
