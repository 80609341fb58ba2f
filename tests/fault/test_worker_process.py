"""The worker process from outside: a socket, commands in, reports out, and every way in which it may end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kelm.testing.drive import Driver, Transcript
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.framing import Reader, encode
from kelm.wire.messages import (
    PROTOCOL,
    Cancel,
    Command,
    Failed,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    Quit,
    Report,
    Sampling,
    Step,
    Submit,
    Unload,
    Unloaded,
)
from kelm.worker.command_line import arguments
from kelm.worker.settings import EngineSettings

KIND = EngineSettings(memory_bytes=16 << 20, kv_bytes=1 << 20, slab_bytes=1 << 16, step_tokens=64)


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
"""pytest finds the package through a setting of its own."""


class Worker:
    """A worker and our end of its socket."""

    def __init__(self, module: str = "kelm.testing.hash_worker", kind: EngineSettings = KIND) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(30)
        with theirs:
            command = [sys.executable, "-m", module, *arguments(kind), str(theirs.fileno())]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL, env=ENVIRONMENT
            )
        self._reader: Reader[Report] = Reader(Report)
        self._reports: list[Report] = []

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.socket.sendall(encode(command))

    def hear(self) -> Report:
        while not self._reports:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._reports += self._reader.feed(data)
        return self._reports.pop(0)

    def until(self, wanted: Callable[[Report], bool]) -> list[Report]:
        heard = [self.hear()]
        while not wanted(heard[-1]):
            heard.append(self.hear())
        return heard

    def load(self) -> Loaded:
        loaded = self.until(lambda report: isinstance(report, Loaded | LoadFailed))[-1]
        assert isinstance(loaded, Loaded)
        return loaded

    def exit_code(self) -> int:
        return self.process.wait(timeout=30)


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.process.kill()
    one.process.wait()
    one.socket.close()


def submits(count: int, tokens: int = 12) -> list[Submit]:
    rng = random.Random(count)
    return [
        Submit(
            pid=pid,
            model="model",
            prompt=[rng.randrange(101) for _ in range(rng.randint(2, 40))],
            sampling=Sampling(seed=pid, max_tokens=tokens, temperature=pid % 2),
            n=1 + pid % 3,
        )
        for pid in range(count)
    ]


def ended(transcript: Transcript, work: list[Submit]) -> Callable[[Report], bool]:
    def all_ended(report: Report) -> bool:
        transcript.hear(report)
        return len(transcript.ends) == sum(one.n for one in work)

    return all_ended


def test_it_says_hello_loads_runs_and_quits(worker: Worker) -> None:
    hello = worker.hear()
    assert isinstance(hello, Hello)
    assert (hello.protocol, hello.pid, hello.threads) == (PROTOCOL, worker.process.pid, 1)
    assert "numpy" in hello.numerics
    work = submits(6)
    worker.send(Load(model="model", files={}), *work)
    assert worker.load().executor == "hash"
    heard = Transcript()
    worker.until(ended(heard, work))
    alone = Driver(KIND, open_hash_model(HashModel())).run(work)
    assert (heard.tokens, heard.ends) == (alone.tokens, alone.ends)
    begun = [report.number for report in heard.begun]
    assert begun == list(range(1, len(begun) + 1)), "a StepBegin before each step"
    worker.send(Quit())
    assert worker.exit_code() == 0


def test_an_error_is_charged_to_its_command(worker: Worker) -> None:
    worker.send(
        Submit(pid=4, model="model", prompt=[1], sampling=Sampling(seed=0, max_tokens=1)),
        Load(model="lost", files={"model.safetensors": "/nonexistent/file"}),
        Unload("model"),
        Cancel(99),
        Load(model="model", files={}),
    )
    heard = worker.until(lambda report: isinstance(report, Loaded))
    failed = next(report for report in heard if isinstance(report, Failed))
    assert (failed.pid, failed.code) == (4, "model_not_found")
    lost = next(report for report in heard if isinstance(report, LoadFailed))
    assert lost.model == "lost"
    assert "/nonexistent" not in lost.message
    assert any(isinstance(report, Unloaded) for report in heard)


def test_a_cancel_takes_effect_within_a_step_and_reports_free_blocks(worker: Worker) -> None:
    endless = submits(1, tokens=100_000)[0]
    worker.send(Load(model="model", files={}), endless)
    worker.until(lambda report: isinstance(report, Step) and bool(report.tokens))
    worker.send(Cancel(endless.pid))
    last = worker.until(lambda report: isinstance(report, Step) and report.tokens[0].finish == "abort")[-1]
    assert isinstance(last, Step)
    assert last.counters.blocks_free == last.counters.blocks_total


def test_it_leaves_when_the_daemon_is_gone(worker: Worker) -> None:
    worker.hear()
    worker.socket.shutdown(socket.SHUT_RDWR)
    assert worker.exit_code() == 1


def test_it_leaves_in_the_middle_of_work_when_the_daemon_is_gone(worker: Worker) -> None:
    worker.send(Load(model="model", files={}), *submits(3, tokens=100_000))
    worker.until(lambda report: isinstance(report, Step))
    worker.socket.close()
    assert worker.exit_code() == 1


def test_no_orphan_when_its_parent_is_killed(tmp_path: Path) -> None:
    """A stand-in daemon starts a worker, gives it endless work and is killed with -9, its socket held open by us."""
    ours, theirs = socket.socketpair()
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], pass_fds=[int(sys.argv[-1])])\n"
        "time.sleep(100)\n"
    )
    flags = [sys.executable, "-m", "kelm.testing.hash_worker", *arguments(KIND), str(theirs.fileno())]
    parent = subprocess.Popen([sys.executable, "-c", script, *flags], pass_fds=[theirs.fileno()], env=ENVIRONMENT)
    theirs.close()
    ours.settimeout(30)
    hello = Reader[Report](Report).feed(ours.recv(1 << 16))[0]
    assert isinstance(hello, Hello)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(hello.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(hello.pid)
    ours.close()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_in_a_step_its_socket_ends_and_a_new_one_goes_on(worker: Worker) -> None:
    work = submits(8)
    undisturbed = Driver(KIND, open_hash_model(HashModel())).run(work)
    worker.send(Load(model="model", files={}), *work)
    first = Transcript()

    def a_few(report: Report) -> bool:
        first.hear(report)
        return sum(len(ids) for ids in first.tokens.values()) > 20

    worker.until(a_few)
    worker.process.send_signal(signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            first.hear(worker.hear())
    assert worker.exit_code() == -signal.SIGKILL

    again = [
        Submit(
            pid=one.pid,
            model="model",
            prompt=one.prompt,
            sampling=one.sampling,
            n=one.n,
            generated=[first.tokens.get((one.pid, choice), []) for choice in range(one.n)],
            finished=[choice for choice in range(one.n) if (one.pid, choice) in first.ends],
        )
        for one in work
    ]
    second = Driver(KIND, open_hash_model(HashModel())).run(again)
    for choice, ids in undisturbed.tokens.items():
        assert first.tokens.get(choice, []) + second.tokens.get(choice, []) == ids


@pytest.mark.parametrize("seed", range(8))
def test_rubbish_on_its_socket_ends_it_with_an_error(worker: Worker, seed: int) -> None:
    rng = random.Random(seed)
    worker.hear()
    frames = rng.choice([b"", encode(Load(model="model", files={}))])
    worker.socket.sendall(frames + rng.randbytes(rng.randint(1, 100_000)))
    worker.socket.shutdown(socket.SHUT_WR)
    assert worker.exit_code() == 1


def test_a_frame_of_another_protocol_ends_it_at_once(worker: Worker) -> None:
    worker.hear()
    worker.socket.sendall(b"\x05\x00\x00\x00\xc1\xc1\xc1\xc1\xc1")
    assert worker.exit_code() == 1


def test_the_real_worker_says_hello_before_it_imports_torch_and_refuses_rubbish_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{]")
    one = Worker("kelm.worker")
    try:
        began = time.monotonic()
        assert isinstance(one.hear(), Hello)
        maps = Path(f"/proc/{one.process.pid}/maps").read_text()
        assert "libtorch" not in maps, f"torch is in after {time.monotonic() - began:.1f} s"
        assert int(Path(f"/proc/{one.process.pid}/oom_score_adj").read_text()) >= int(
            Path(f"/proc/{os.getpid()}/oom_score_adj").read_text()
        )
        one.send(Load(model="model", files={"config.json": str(tmp_path / "config.json")}))
        failed = one.until(lambda report: isinstance(report, LoadFailed))[-1]
        assert isinstance(failed, LoadFailed)
        assert failed.code == "malformed_model"
        one.send(Quit())
        assert one.exit_code() == 0
    finally:
        one.process.kill()
        one.process.wait()
        one.socket.close()
