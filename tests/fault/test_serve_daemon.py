"""The whole daemon: how it refuses to start, how it leaves, and clients that drop at every phase."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from daemon_kit import Daemon, daemon, environment, make_home
from kelm.store import Store

DROPS = 200


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("fault"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """For tests that leave it as it was; the last of them ends it."""
    with daemon(make_home(tmp_path_factory.mktemp("shared")), drain_s=2) as found:
        found.post("/admin/models/load", {"model": "toy"})
        yield found


def ask(port: int, **body: Any) -> http.client.HTTPConnection:
    """A completion that was sent and not read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    what = {"model": "toy", "prompt": "The quick brown fox", "temperature": 1, "ignore_eos": True, **body}
    connection.request("POST", "/v1/completions", json.dumps(what))
    return connection


class Reader(threading.Thread):
    """Reads one stream to its end."""

    def __init__(self, port: int, **body: Any) -> None:
        super().__init__()
        self.text = ""
        self.first = threading.Event()
        self._connection = ask(port, stream=True, **body)
        self._response = self._connection.getresponse()
        self.start()

    def run(self) -> None:
        with closing(self._connection), closing(self._response), suppress(http.client.HTTPException, OSError):
            for line in self._response:
                self.text += line.decode()
                self.first.set()


def test_a_network_without_a_key_is_refused_with_exit_code_2(tmp_path: Path) -> None:
    env = environment(tmp_path / "home", host="0.0.0.0")
    done = subprocess.run([sys.executable, "-m", "kelm.cli", "serve"], env=env, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"KELM_API_KEY" in done.stderr


def test_a_port_in_use_is_refused(tmp_path: Path, running: Daemon) -> None:
    env = environment(tmp_path / "home", port=running.port)
    done = subprocess.run([sys.executable, "-m", "kelm.cli", "serve"], env=env, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"in use" in done.stderr


def test_a_key_locks_the_daemon(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Store(home)
    env = environment(home, host="0.0.0.0", api_key="sk-1", port=_free_port())
    process = subprocess.Popen([sys.executable, "-m", "kelm.cli", "serve"], env=env, stderr=subprocess.DEVNULL)
    try:
        port = int(env["KELM_PORT"])
        _until(lambda: _status(port, "/ready") == 200)
        assert _status(port, "/v1/models") == 401
        assert _status(port, "/metrics") == 401
        assert _status(port, "/v1/models", "sk-1") == 200
    finally:
        process.terminate()
        assert process.wait(15) == 0


def test_sigterm_lets_what_runs_finish_and_refuses_new_work(home: Path) -> None:
    with daemon(home, drain_s=60) as running:
        running.post("/admin/models/load", {"model": "toy"})
        long = [Reader(running.port, max_tokens=400, n=4) for _ in range(4)]
        assert all(reader.first.wait(20) for reader in long)
        running.process.send_signal(signal.SIGTERM)
        assert _until(lambda: _post_status(running.port) == 503)
        assert _status(running.port, "/health") == 200
        assert _status(running.port, "/ready") == 503
        for reader in long:
            reader.join(60)
            assert reader.text.count('"finish_reason":"length"') == 4
            assert reader.text.endswith("data: [DONE]\n\n")
        assert running.process.wait(15) == 0


def test_what_outlasts_the_drain_ends_with_an_error_that_says_so(home: Path) -> None:
    with daemon(home, drain_s=0) as running:
        running.post("/admin/models/load", {"model": "toy"})
        long = [Reader(running.port, max_tokens=450, n=8) for _ in range(4)]
        assert all(reader.first.wait(20) for reader in long)
        assert running.stop() == 0
        for reader in long:
            reader.join(10)
            last = [line for line in reader.text.splitlines() if line.startswith("data: {")][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
            assert reader.text.endswith("data: [DONE]\n\n")


def test_a_second_signal_ends_it_at_once(home: Path) -> None:
    with daemon(home, drain_s=60) as running:
        running.post("/admin/models/load", {"model": "toy"})
        readers = [Reader(running.port, max_tokens=450, n=16) for _ in range(4)]
        assert all(reader.first.wait(20) for reader in readers)
        workers = _children(running.process.pid)
        assert workers
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert running.process.poll() is None, "it drains"
        begin = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 130
        assert time.monotonic() - begin < 2
        assert _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers)), "no orphans"


@pytest.mark.timeout(180)
def test_clients_dropped_at_every_phase_give_their_blocks_back(running: Daemon) -> None:
    """Before the headers, in the body, queued, in prefill, between chunks, at the end; streams and whole answers."""
    running.post("/v1/completions", {"model": "toy", "prompt": "a", "max_tokens": 1})
    free = running.metric("kelm_kv_blocks_free")
    chance = random.Random(3)
    for turn in range(DROPS):
        _drop(running.port, turn, chance)
        if turn % 50 == 49:
            assert running.get("/health") == {"status": "ok"}
    running.idle()
    assert running.metric("kelm_kv_blocks_free") == free
    assert running.metric("kelm_worker_restarts_total") == 0


def test_the_admin_door_ends_it_as_well(running: Daemon) -> None:
    running.post("/admin/shutdown", {})
    assert running.process.wait(15) == 0


def _drop(port: int, turn: int, chance: random.Random) -> None:
    body = {"model": "toy", "prompt": [5] * chance.randint(1, 400), "max_tokens": 100, "ignore_eos": True}
    what = json.dumps({**body, "stream": turn % 2 == 0, "n": chance.choice([1, 1, 3])}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(what)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        phase = turn % 5
        if phase == 0:
            client.sendall((head + what)[: chance.randrange(len(head) + len(what))])
            return
        client.sendall(head + what)
        if phase == 1:
            return
        if phase == 2:
            time.sleep(chance.random() * 0.05)
            return
        client.recv(chance.choice([1, 100, 5000]) if turn % 2 == 0 else 1)
        if phase == 4 and chance.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end


def _until(condition: Any, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return True


def _status(port: int, path: str, key: str = "") -> int:
    with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
        with closing(connection.getresponse()) as got:
            return got.status
    return 0


def _post_status(port: int) -> int:
    with suppress(OSError), closing(ask(port, max_tokens=1)) as connection, closing(connection.getresponse()) as got:
        return got.status
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
