"""The real command against a real daemon and worker: what a person does in an afternoon."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub
from tiny_checkpoint import write_tiny

from cli_kit import ARGV, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"), {})
    write_tiny(place.root / "tiny")
    write_tiny(place.root / "plain", chat=False)
    for name in ("tiny", "plain"):
        assert place.kelm("import", str(place.root / name)).returncode == 0
    done = place.kelm("serve", "-d", "--port", "0", "tiny")
    assert done.returncode == 0 and "kelm is ready at http://127.0.0.1:" in done.stdout, done.stderr
    yield place
    done = place.kelm("shutdown")
    assert done.returncode == 0 and done.stdout == "the daemon has ended\n", done.stderr
    assert place.kelm("shutdown").returncode == 1


def daemon_pid(place: Place) -> int:
    return json.loads((place.root / "home" / "run" / "daemon.json").read_text())["pid"]


def daemon_port(place: Place) -> int:
    return int(json.loads((place.root / "home" / "run" / "daemon.json").read_text())["address"].rpartition(":")[2])


def test_a_second_daemon_is_refused_by_name(place: Place) -> None:
    for args in (["serve"], ["serve", "-d"]):
        done = place.kelm(*args)
        assert done.returncode == 2 and f"pid {daemon_pid(place)} at http://127.0.0.1:" in done.stderr


def test_a_port_in_use_names_its_owner(place: Place) -> None:
    other = {"KELM_HOME": str(place.root / "other"), "KELM_PORT": str(daemon_port(place))}
    for args in (["serve"], ["serve", "-d"]):
        done = place.kelm(*args, **other)
        assert done.returncode == 2, done
        assert f"in use by pid {daemon_pid(place)} (" in done.stderr and "kelm.cli serve" in done.stderr
        assert len(done.stderr.strip().splitlines()) == (1 if "-d" in args else len(done.stderr.strip().splitlines()))


def test_a_key_is_needed_off_loopback_and_is_not_in_the_list_of_processes(place: Place, tmp_path: Path) -> None:
    done = place.kelm("serve", "--host", "0.0.0.0", KELM_HOME=str(tmp_path / "open"))
    assert done.returncode == 2 and "API key" in done.stderr
    guarded = Place(tmp_path, {"KELM_API_KEY": "sk-right"})
    try:
        done = guarded.kelm("serve", "-d", "--port", "0", "--api-key", "sk-right")
        assert done.returncode == 0, done.stderr
        commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "sk-right" not in commands
        assert guarded.rows() == []
        wrong = guarded.kelm("ps", KELM_API_KEY="sk-wrong")
        assert wrong.returncode == 1 and "key" in wrong.stderr and "Traceback" not in wrong.stderr
    finally:
        guarded.kelm("shutdown")


def test_one_answer_from_an_argument_or_a_pipe(place: Place) -> None:
    for done in (place.kelm("run", "plain", "hello"), place.kelm("run", "plain", stdin="hello\n")):
        assert done.returncode == 0 and done.stderr == ""
        assert len(done.stdout) > 20 and done.stdout.endswith("\n")


def test_what_is_in_memory(place: Place) -> None:
    rows = {row["name"]: row for row in place.rows("--models")}
    assert rows["tiny:latest"]["state"] == "resident"
    assert json.loads(place.kelm("show", "tiny", "--json").stdout)["resident"]["executor"]
    assert "executor" in place.kelm("show", "tiny").stdout
    done = place.kelm("rm", "tiny")
    assert done.returncode == 2 and "kelm stop tiny" in done.stderr
    place.kelm("run", "plain", "x")
    assert place.kelm("stop", "plain").stdout == "plain was unloaded\n"
    assert "plain:latest" not in {row["name"] for row in place.rows("--models")}
    done = place.kelm("stop", "plain")
    assert done.returncode == 1 and "not loaded" in done.stderr


def test_the_log(place: Place) -> None:
    done = place.kelm("logs", "-n", "1000")
    assert done.returncode == 0 and "model_loaded model=tiny:latest" in done.stdout
    assert len(place.kelm("logs", "-n", "2").stdout.splitlines()) == 2


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, place: Place, *args: str) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(ARGV[0], [*ARGV, *args], place.env)

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Read until ``pattern`` shows up; what came before is forgotten."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; got {self.text!r}"
            self.text += os.read(self.fd, 65536).decode(errors="replace")
        seen, self.text = self.text[: match.end()], self.text[match.end() :]
        return seen

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:  # the terminal's other side is closed
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_chat(place: Place) -> None:
    """Ctrl-C ends the answer, not the program, and the daemon stops working on it; the next question carries what was
    said before, until /clear."""
    terminal = Terminal(place, "run", "tiny")
    prompts = []
    terminal.until(">>> ")
    for question in ("hello", "again", "/clear", "anew"):
        terminal.type(question + "\n")
        if question.startswith("/"):
            terminal.until(r"forgotten\)\r\n>>> ")
            continue
        terminal.until(question + r"\r?\n[^>]*.{4}")
        rows = place.rows()
        prompts.append(rows[0]["prompt_tokens"])
        terminal.type("\x03")
        terminal.until(r"\(stopped\)\r\n>>> ")
        deadline = time.monotonic() + 10
        while place.rows():
            assert time.monotonic() < deadline, "the daemon goes on with a cancelled answer"
    again = len(["<|user|>", *"again", "</s>"])
    assert prompts[1] > prompts[0] + again, "the answer is part of the conversation"
    assert abs(prompts[2] - prompts[0]) <= 3, "/clear forgets"
    terminal.type("\x03")
    terminal.until("/bye or Ctrl-D")
    terminal.type("/hepl\n")
    terminal.until(r"did you mean /help\?")
    terminal.type("/bye\n")
    assert terminal.end() == 0


def test_run_starts_the_daemon_and_pulls_the_model(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "src", chat=False)
    hub = Hub({"org/tiny": {path.name: path.read_bytes() for path in folder.iterdir()}}).start()
    place = Place(tmp_path, {"HF_ENDPOINT": hub.url, "KELM_PORT": "0"})
    try:
        done = place.kelm("run", "org/tiny", "hello")
        assert done.returncode == 0 and len(done.stdout) > 20, done.stderr
        done = place.kelm("run", "org/tinny", "hello")
        assert done.returncode == 1 and "did you mean org/tiny?" in done.stderr
    finally:
        assert place.kelm("shutdown").returncode == 0
        hub.stop()


def test_in_the_foreground_until_a_signal(tmp_path: Path) -> None:
    place = Place(tmp_path, {"KELM_PORT": "0"})
    write_tiny(tmp_path / "tiny")
    place.kelm("import", str(tmp_path / "tiny"))
    with subprocess.Popen([*ARGV, "serve", "tiny"], env=place.env, stderr=subprocess.PIPE, text=True) as daemon:
        deadline = time.monotonic() + 60
        while True:
            done = place.kelm("ps", "--models", "--json")
            rows = json.loads(done.stdout) if done.returncode == 0 else []
            if ("tiny:latest", "resident") in [(row["name"], row["state"]) for row in rows]:
                break
            assert daemon.poll() is None and time.monotonic() < deadline, done
        daemon.send_signal(signal.SIGTERM)
        said = daemon.communicate(timeout=30)[1]
    assert daemon.returncode == 0, said


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    place = Place(tmp_path, {"KELM_PORT": "0"})
    folder = write_tiny(tmp_path / "bad")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    place.kelm("import", str(folder))
    done = place.kelm("serve", "bad")
    assert done.returncode in (1, 2) and done.stderr.splitlines()[-1].startswith("kelm: "), done.stderr
    assert "Traceback" not in done.stderr
