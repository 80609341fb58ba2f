"""DistributedSystem: every verb over real processes, and what is refused is refused on all of them."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster_kit import together
from kelm import limits
from kelm.cluster import arrays
from kelm.cluster.rendezvous import host_and_port
from kelm.cluster.system import DistributedSystem
from kelm.errors import InvalidRequest, KelmError


def _plain(tensors: list[torch.Tensor] | None) -> Any:
    """For the pipe of a process that is about to end."""
    return tensors and [(str(tensor.dtype), tensor.tolist()) for tensor in tensors]


def _verbs(system: DistributedSystem) -> dict[str, Any]:
    rank, compute = system.rank, system.compute
    own = np.arange(3, dtype=np.float32) + 10 * rank
    tensor = torch.tensor([[rank, 2]], dtype=torch.int16)
    return {
        "broadcast": compute.broadcast(own if rank == 1 else None, root=1),
        "scatter": compute.scatter([own + i for i in range(3)] if rank == 2 else None, root=2),
        "gather": _plain(compute.gather(tensor)),
        "sum": compute.reduce(own, root=1),
        "max": compute.all_reduce(own, "max"),
        "product": compute.all_reduce(np.int64(rank + 2), "product"),
        "own": own,
        "empty": compute.all_reduce(np.zeros((0, 4))).shape,
    }


def test_verbs(tmp_path: Path) -> None:
    found = [node.result for node in together(3, _verbs, tmp_path / "meet")]
    for rank, result in enumerate(found):
        np.testing.assert_array_equal(result["broadcast"], [10, 11, 12])
        np.testing.assert_array_equal(result["scatter"], np.array([20, 21, 22]) + rank)
        np.testing.assert_array_equal(result["max"], [20, 21, 22])
        assert result["product"] == 24 and result["product"].dtype == np.int64
        np.testing.assert_array_equal(result["own"], np.arange(3) + 10 * rank)  # nobody's array is written into
        assert result["empty"] == (0, 4)
    assert found[0]["gather"] == [("torch.int16", [[rank, 2]]) for rank in range(3)]
    assert found[1]["gather"] is None and found[2]["gather"] is None
    np.testing.assert_array_equal(found[1]["sum"], [30, 33, 36])
    assert found[0]["sum"] is None


def _messages(system: DistributedSystem) -> Any:
    talk = system.communication
    sent = [
        b"\x00bytes\xff",
        np.array(3.5),
        np.zeros((0, 2), dtype=np.int8),
        np.arange(6, dtype=">i4").reshape(2, 3)[:, ::2],
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        np.array([True, False]),
    ]
    if system.rank == 0:
        for value in sent:
            talk.send(value, to=1, tag=5)
        talk.send(np.array([2]), to=1, tag=2)
        return None
    got = [talk.receive(0, tag=5) for _ in sent]
    got[4] = _plain([got[4]])
    return got, talk.receive(0, 2)


def test_messages_arrive_as_they_were_sent(tmp_path: Path) -> None:
    got, last = together(2, _messages, tmp_path / "meet")[1].result
    assert got[0] == b"\x00bytes\xff"
    assert got[1].shape == () and got[1] == 3.5
    assert got[2].shape == (0, 2) and got[2].dtype == np.int8
    np.testing.assert_array_equal(got[3], [[0, 2], [3, 5]])
    assert got[4] == [("torch.bfloat16", [1.5, -2.0])]
    assert got[5].tolist() == [True, False] and last.tolist() == [2]


def _wrong(system: DistributedSystem) -> list[tuple[str, str]]:
    rank, compute, heard = system.rank, system.compute, []
    calls = [
        lambda: compute.all_reduce(np.ones(rank + 1)),
        lambda: compute.all_reduce(np.ones(1, dtype=np.float32 if rank else np.float64)),
        lambda: compute.all_reduce(np.ones(1, dtype=bool)),
        lambda: compute.all_reduce(np.ones(1), "median"),  # type: ignore[arg-type]
        lambda: compute.broadcast("text" if rank == 0 else None),  # type: ignore[arg-type]
        lambda: compute.broadcast(np.ones(1), root=2),
        lambda: compute.broadcast(None),
        lambda: compute.scatter([np.ones(2)] if rank == 0 else None),
        lambda: compute.scatter([np.ones(2), np.ones(3)] if rank == 0 else None),
        lambda: compute.all_reduce(np.ones(2)) if rank else compute.barrier(),
        lambda: compute.gather(np.array(["text"])) if rank else compute.gather(np.ones(1)),
        lambda: compute.gather(np.ones((1,) * 17)) if rank else compute.gather(np.ones(1)),
    ]
    for call in calls:
        try:
            call()
            heard.append(("", "was not refused"))
        except KelmError as error:
            heard.append((type(error).__name__, error.message))
    assert compute.all_reduce(np.ones(1)).tolist() == [2]  # and all goes on
    return heard


def test_what_is_wrong_on_one_node_is_refused_on_all(tmp_path: Path) -> None:
    first, second = (node.result for node in together(2, _wrong, tmp_path / "meet", timeout_s=20))
    words = [
        r"node 0 float64\[1\], node 1 float64\[2\]",
        r"node 0 float64\[1\], node 1 float32\[1\]",
        "bool can't be reduced",
        "sum, product, min, max",
        "node 0: .*array or a tensor is needed, got str",
        "root must be a rank, 0 to 1, got 2",
        "node 0 is the root and gave nothing",
        "one array for each of the 2 nodes, got 1",
        r"float64\[2\], float64\[3\]",
        "node 0 barrier, node 1 all_reduce",
        "node 1: .*<U4 can't be sent",
        "node 1: .*at most 16 dimensions, got 17",
    ]
    assert first == second
    for (kind, message), word in zip(first, words, strict=True):
        assert kind == "InvalidRequest" and re.search(word, message), (word, message)


def _values(system: DistributedSystem) -> Any:
    store = system.store
    if system.rank == 0:
        store.put("config", {"layers": [1, 2], "blob": b"\x00\xff"})
        heard = []
        thread = store.on_change("answer", lambda change: heard.append((change.value, change.version)), int)
        store.put("go", 1)
        for _ in range(200):
            if len(heard) == 3:
                break
            time.sleep(0.02)
        seen = [change.value for change, _ in zip(store.changes("late", after=0), range(1), strict=False)]
        assert thread.is_alive()
        return heard, seen
    assert store.watch("go", int, after=0).version == 1
    found = [store.get("config"), store.get("nobody")]
    for value in range(3):
        store.put("answer", value)
        time.sleep(0.1)  # a watcher may miss changes that come faster than it looks
    for _ in range(2 * int(limits.CLUSTER_VERSIONS.value)):
        version = store.put("late", "x")
    kept = [n for n in range(1, version + 1) if system._meeting.store.check([f"value/late/{n}"])]
    wrong = []
    for call in (
        lambda: store.get("config", int),
        lambda: store.put("big", b"x" * (int(limits.CLUSTER_VALUE_BYTES.most) + 1)),
        lambda: store.put("", 1),
        lambda: store.put("k" * 257, 1),
        lambda: store.put("new\nline", 1),
        lambda: store.put("odd", object()),
        lambda: store.watch("nobody", timeout_s=0.2),
    ):
        try:
            call()
        except KelmError as error:
            wrong.append(type(error).__name__)
    return found, kept, version, wrong


def test_values(tmp_path: Path) -> None:
    first, second = (node.result for node in together(2, _values, tmp_path / "meet"))
    assert first == ([(0, 1), (1, 2), (2, 3)], ["x"])
    found, kept, version, wrong = second
    assert found == [{"layers": [1, 2], "blob": b"\x00\xff"}, None]
    assert kept == list(range(version - int(limits.CLUSTER_VERSIONS.value) + 1, version + 1))
    assert wrong == ["InvalidRequest"] * 6 + ["NodeFailed"]


def _listening(system: DistributedSystem) -> list[str]:
    system.compute.barrier()
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(descriptor.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1].partition(":")[0])
    system.compute.barrier()
    return found


def test_nodes_listen_on_this_machine_only(tmp_path: Path) -> None:
    for node in together(2, _listening, tmp_path / "meet"):
        assert node.result and set(node.result) == {"0100007F"}  # 127.0.0.1


@pytest.mark.parametrize("at", ["0.0.0.0:1", "10.1.2.3:4000", "example.com:80", "[::]:9"])
def test_an_address_that_others_can_reach_is_refused(at: str) -> None:
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1 only"):
        DistributedSystem(0, 1, at)


@pytest.mark.parametrize("at", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ""])
def test_an_address_is_host_and_port(at: str) -> None:
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        host_and_port(at)


@pytest.mark.parametrize(("rank", "nodes"), [(2, 2), (-1, 2), (True, 2), (0, 0), (0, 65)])
def test_ranks_and_nodes_are_bounded(rank: int, nodes: int) -> None:
    with pytest.raises(InvalidRequest):
        DistributedSystem(rank, nodes, "127.0.0.1:0")


def _nothing(system: DistributedSystem) -> str:
    return str(system.members[system.rank])


def test_nodes_that_disagree_are_told_so(tmp_path: Path) -> None:
    nodes = together(2, _nothing, tmp_path / "meet", joins=[(0, 2), (1, 3)], join_timeout_s=20)
    assert [node.error for node in nodes] == ["InvalidRequest"] * 2
    assert all("node 1 was started for 3 nodes, node 0 for 2" in node.message for node in nodes)


def _again(system: DistributedSystem, at: Path) -> list[str]:
    """Node 1 tries to come a second time, and then as another node 0."""
    heard = []
    for rank in (1, 0) if system.rank == 1 else ():
        try:
            DistributedSystem(rank, 2, at, join_timeout_s=5)
        except KelmError as error:
            heard.append(error.message)
    system.compute.barrier()
    return heard


def test_a_rank_is_taken_once(tmp_path: Path) -> None:
    at = tmp_path / "meet"
    at.write_text('{"address": "127.0.0.1:1", "token": "of one that is gone"}')  # is written over
    twice, second_host = together(2, _again, at, at)[1].result
    assert "rank 1 is taken by node 1 (pid" in twice
    assert "rank 0 is taken" in second_host
    assert at.stat().st_mode & 0o077 == 0


def test_a_port_that_somebody_has_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidRequest, match="another node 0"):
            DistributedSystem(0, 1, f"127.0.0.1:{taken.getsockname()[1]}")


def test_one_node_is_a_system_too(tmp_path: Path) -> None:
    with DistributedSystem(0, 1, tmp_path / "meet") as system:
        assert system.compute.all_reduce(np.ones(2)).tolist() == [1, 1]
        system.store.put("a", 1)
    with pytest.raises(KelmError, match="closed"):
        system.store.get("a")
    with pytest.raises(KelmError, match="closed"):
        system.compute.barrier()


def test_a_header_has_one_size() -> None:
    for header in (
        arrays.Header("x"),
        arrays.Header("y" * 300, error="e" * 300),
        arrays.Header("z", "numpy", "int8", (1,) * 16),
    ):
        packed = arrays.pack(header)
        assert len(packed) == arrays.HEADER_BYTES
        assert arrays.unpack(packed).doing[:1] == header.doing[:1]
    with pytest.raises(InvalidRequest):
        arrays.unpack(torch.full((arrays.HEADER_BYTES,), 255, dtype=torch.uint8))
    with pytest.raises(InvalidRequest, match="array must be between"):
        arrays.empty(arrays.Header("x", "numpy", "int64", (1 << 40,)))
