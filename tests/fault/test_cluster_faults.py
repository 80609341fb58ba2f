"""Nodes that die, hang, leave or never come: the others hear of it by name, within their time, and never hang."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_kit import Outcome, together
from kelm.cluster.system import DistributedSystem
from kelm.errors import NodeFailed

QUICK = {"timeout_s": 3.0, "join_timeout_s": 30.0, "beat_s": 0.1}
PATIENT = QUICK | {"timeout_s": 50.0}
PROMPT_S = 25.0
"""Half the time of an operation: a death is seen, not waited for."""


def _dies_in_a_collective(system: DistributedSystem, victim: int) -> None:
    system.compute.barrier()
    if system.rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(1000):
        system.compute.all_reduce(np.ones(4))


def _check(nodes: list[Outcome], victim: int) -> None:
    assert nodes[victim].died
    for node in nodes[:victim] + nodes[victim + 1 :]:
        assert node.error == "NodeFailed" and f"node {victim} (pid" in node.message, node
        assert node.seconds < PROMPT_S


@pytest.mark.parametrize("victim", [2, 0])
def test_the_others_hear_who_died(tmp_path: Path, victim: int) -> None:
    _check(together(3, _dies_in_a_collective, tmp_path / "meet", victim, **PATIENT), victim)


def _dies_before_it_sends(system: DistributedSystem) -> None:
    system.compute.barrier()
    if system.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if system.rank == 0:
        system.communication.receive(1)
    system.compute.barrier()


def test_a_receiver_hears_who_died_and_so_do_those_who_wait_for_the_receiver(tmp_path: Path) -> None:
    _check(together(3, _dies_before_it_sends, tmp_path / "meet", **PATIENT), 1)


def _stops(system: DistributedSystem) -> None:
    system.compute.barrier()
    if system.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    system.compute.barrier()


def test_a_node_that_hangs_is_named_when_time_is_up(tmp_path: Path) -> None:
    first = together(2, _stops, tmp_path / "meet", joins=[(0, 2), (1, 2)], only=0, **QUICK)[0]
    assert first.error == "NodeFailed" and "node 1 (pid" in first.message and "died or hangs" in first.message


def _elsewhere(system: DistributedSystem) -> Any:
    if system.rank == 1:
        return system.store.watch("nobody", timeout_s=6)
    return system.compute.all_reduce(np.ones(1))


def test_a_node_that_does_something_else_is_named(tmp_path: Path) -> None:
    first = together(2, _elsewhere, tmp_path / "meet", **QUICK)[0]
    assert "did not come about within 3 s: all nodes live, but node 1 (pid" in first.message


def _leaves(system: DistributedSystem) -> None:
    if system.rank != 1:
        system.compute.barrier()


def test_a_node_that_left_is_named(tmp_path: Path) -> None:
    nodes = together(3, _leaves, tmp_path / "meet", **PATIENT)
    assert not nodes[1].error
    assert all("node 1 (pid" in node.message and "has left" in node.message for node in (nodes[0], nodes[2]))


def _goes_on_after(system: DistributedSystem) -> list[str]:
    heard = []
    for _ in range(2):
        try:
            system.communication.receive(1, timeout_s=0.3) if system.rank == 0 else system.store.watch("x", timeout_s=2)
        except NodeFailed as error:
            heard.append(error.message)
    return heard


def test_after_a_failure_every_call_says_so(tmp_path: Path) -> None:
    once, again = together(2, _goes_on_after, tmp_path / "meet", **QUICK)[0].result
    assert "receive from node 1 did not come about within 0.3 s" in once and again == once


def _watches_the_dying(system: DistributedSystem) -> Any:
    system.compute.barrier()
    if system.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return [change.value for change in system.store.changes("key")]


def test_a_watcher_hears_that_node_0_died(tmp_path: Path) -> None:
    _check(together(2, _watches_the_dying, tmp_path / "meet", **PATIENT), 0)


def test_an_unreachable_node_is_named_in_time(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match=r"node 0 does not answer at 127\.0\.0\.1:1 .*start it first"):
        DistributedSystem(1, 2, "127.0.0.1:1", join_timeout_s=0.5)
    with pytest.raises(NodeFailed, match=r"node 0 does not answer at .*nowhere"):
        DistributedSystem(1, 2, tmp_path / "nowhere", join_timeout_s=0.5)
    with pytest.raises(NodeFailed, match=r"nodes 1, 2 of 3 did not join .*within 0\.5 s: start what is missing"):
        DistributedSystem(0, 3, tmp_path / "meet", join_timeout_s=0.5)


def test_a_port_where_somebody_else_listens_is_not_waited_for_ever(tmp_path: Path) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(NodeFailed, match="node 0 does not answer"):
            DistributedSystem(1, 2, f"127.0.0.1:{mute.getsockname()[1]}", join_timeout_s=1)
