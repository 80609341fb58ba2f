"""`kelm cluster serve` on a real Ray with two nodes: a node dies with streams open, and nobody notices."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from daemon_kit import environment
from kelm.store import Store
from kelm.testing.checkpoints import write_llama

STREAMS = 8
TOKENS = 300


@dataclass
class Cluster:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def replicas(self) -> dict[str, Any]:
        rows = httpx2.get(f"{self.url}/admin/replicas", trust_env=False).json()["replicas"]
        return {row["name"]: row for row in rows}

    def until(self, condition: Any, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, self.tail()
            time.sleep(0.1)

    def all_up(self) -> bool:
        return all(row["state"] == "up" for row in self.replicas().values())

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


def descendants(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(folder.name), *descendants(int(folder.name))]
    return found


def gone(pid: int) -> bool:
    """Or dead, and whoever inherited it has yet to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    Store(folder / "home").import_folder(write_llama(folder / "toy"), "toy")
    log = folder / "log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "kelm.cli", "cluster", "serve", "toy", "--replicas", "2"]
        # Torch is slow enough for a node to die in the middle of answers.
        env = environment(folder / "home", memory="512MiB", threads=2, executor="torch")
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=env)
    made = Cluster(process, "", log)
    everybody: list[int] = []
    try:
        made.until(lambda: b"cluster_listens" in log.read_bytes())
        made.url = re.findall(r"address=(http://[\d.:]+)/v1", log.read_text())[0]
        made.until(made.all_up)
        yield made
        everybody = descendants(process.pid)
        assert len(everybody) > 8
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, made.tail()
        left = [pid for pid in everybody if not gone(pid)]
        assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
    finally:
        for pid in [process.pid, *(everybody or descendants(process.pid))]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def body(number: int) -> dict[str, Any]:
    """Greedy ones and sampled ones, one choice or two, each in a conversation of its own."""
    return {
        "model": "toy",
        "messages": [{"role": "system", "content": f"You are {number}."}, {"role": "user", "content": "Tell me more"}],
        "stream": True,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "seed": number,
        "temperature": 0.0 if number % 3 == 0 else 0.9,
        "n": 1 + number % 2,
        "logprobs": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }


class Stream:
    """What a client reads: per choice text, ids and log-probabilities; and who said so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.choices: dict[int, tuple[list[str], list[int], list[float]]] = {}
        self.ends: list[tuple[int, str]] = []
        self.heads: set[str] = set()
        self.completed = self.tokens = 0

    async def read(self, client: httpx2.AsyncClient, url: str) -> Stream:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body(self.number)) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    self._hear(json.loads(line[6:]))
                elif line == "data: [DONE]":
                    self.completed += 1
        return self

    def _hear(self, event: dict[str, Any]) -> None:
        assert "error" not in event, event
        self.heads.add(event["id"])
        for choice in event["choices"]:
            texts, ids, scores = self.choices.setdefault(choice["index"], ([], [], []))
            texts.append(choice["delta"].get("content") or "")
            ids += choice.get("token_ids") or []
            scores += [entry["logprob"] for entry in (choice["logprobs"] or {}).get("content") or []]
            self.tokens += len(choice.get("token_ids") or [])
            if choice["finish_reason"]:
                self.ends.append((choice["index"], choice["finish_reason"]))

    def said(self) -> Any:
        choices = {index: ("".join(texts), ids, scores) for index, (texts, ids, scores) in self.choices.items()}
        return choices, sorted(self.ends), len(self.heads), self.completed


async def read_all(url: str, disturb: Any = None) -> list[Stream]:
    async with httpx2.AsyncClient(timeout=120, trust_env=False) as client:
        streams = [Stream(number) for number in range(STREAMS)]
        reading = [asyncio.create_task(stream.read(client, url)) for stream in streams]
        if disturb is not None:
            while min(stream.tokens for stream in streams) < TOKENS // 15:
                await asyncio.sleep(0.005)
            assert not any(task.done() for task in reading)
            disturb()
        return await asyncio.gather(*reading)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["raylet", "daemon"])
async def test_a_node_dies_with_8_streams_open_and_none_is_lost(cluster: Cluster, what: str) -> None:
    undisturbed = await read_all(cluster.url)
    before = cluster.replicas()
    victim = max(("replica-1",), key=lambda name: before[name]["requests"])
    active = 0

    def kill() -> None:
        nonlocal active
        row = cluster.replicas()[victim]
        active = row["active"]
        os.kill(row["pids"][what], signal.SIGKILL)

    disturbed = await read_all(cluster.url, kill)
    assert active > 0, "the one that died had no stream"
    assert [stream.said() for stream in disturbed] == [stream.said() for stream in undisturbed]
    after = cluster.replicas()
    assert after["replica-0"]["taken_over"] - before["replica-0"]["taken_over"] == active
    cluster.until(cluster.all_up)  # made anew, on a new node or the old one
    assert (cluster.replicas()[victim]["node"] != before[victim]["node"]) == (what == "raylet")
    again = await read_all(cluster.url)
    assert [stream.said() for stream in again] == [stream.said() for stream in undisturbed]
    assert cluster.replicas()[victim]["requests"] > after[victim]["requests"], "it is used again"


def test_conversations_stay_where_their_kv_is(cluster: Cluster) -> None:
    with httpx2.Client(base_url=cluster.url, timeout=60, trust_env=False) as client:
        places = set()
        for number in range(4):
            talk = [{"role": "user", "content": f"Hello, I am number {number} and I have a long story to tell"}]
            turns = []
            for _ in range(2):
                answer = client.post("/v1/chat/completions", json={"model": "toy", "messages": talk, "max_tokens": 8})
                turns.append(answer)
                talk += [answer.json()["choices"][0]["message"], {"role": "user", "content": "and then?"}]
            assert len({turn.headers["x-kelm-replica"] for turn in turns}) == 1
            assert turns[1].json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
            places.add(turns[0].headers["x-kelm-replica"])
        assert len(places) == 2
        assert next(model["id"] for model in client.get("/v1/models").json()["data"])


def test_everything_listens_on_this_machine_only(cluster: Cluster) -> None:
    inodes = set()
    for pid in [cluster.process.pid, *descendants(cluster.process.pid)]:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(str(descriptor.readlink()))
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            listens = fields[3] == "0A" or table.startswith("udp")
            if listens and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1].partition(":")[0])
    assert len(found) > 8
    assert set(found) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}, found


def test_a_second_one_for_the_same_home_is_refused(cluster: Cluster) -> None:
    env = environment(cluster.log.parent / "home")
    done = subprocess.run(
        [sys.executable, "-m", "kelm.cli", "cluster", "serve", "toy"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "is in use by the daemon with pid" in done.stderr
