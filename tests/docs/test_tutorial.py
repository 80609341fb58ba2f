"""docs/tutorial.md: every command runs, in order, on a fresh home, and prints what the page shows."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import ROOT, Document
from transcripts import commands, matches

TUTORIAL = Document.read(ROOT / "docs" / "tutorial.md")
COMMANDS = commands(TUTORIAL)
COMMAND_S = 300
PORTS = ("8420", "8440")
"""As the page has them: the daemon's and the support desk's. The test takes free ones."""


@dataclass(frozen=True)
class Session:
    folder: Path
    environment: dict[str, str]
    ports: dict[str, str]
    """As the page has them -> as they are."""

    def here(self, command: str) -> str:
        for shown, taken in self.ports.items():
            command = re.sub(rf"\b{shown}\b", taken, command)
        return command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A user who has just installed Kelm."""
    folder = tmp_path_factory.mktemp("tutorial")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, command in (("kelm", "-W ignore -m kelm.cli"), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (bin_folder / name).chmod(0o755)
    (folder / "examples").symlink_to(ROOT / "examples")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KELM_", "OPENAI_"))}
    paths = {
        "PATH": os.pathsep.join([str(bin_folder), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])),
    }
    # A width that tables fit into, one thread for each process, and a port that nobody else has.
    ports = dict(zip(PORTS, map(str, (free_port(), free_port())), strict=True))
    fixed = {
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "KELM_PORT": ports["8420"],
        "OPENAI_BASE_URL": f"http://127.0.0.1:{ports['8420']}/v1",
        "KELM_MEMORY": "2GiB",
        "PYTHONWARNINGS": "ignore",
    }
    environment = {**kept, **paths, **fixed, "KELM_HOME": str(folder / "home"), "HOME": str(folder)}
    yield Session(folder, environment, ports)
    subprocess.run(["kelm", "shutdown"], cwd=folder, env=environment, capture_output=True, check=False)


@pytest.mark.timeout(COMMAND_S)
@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=lambda n: f"{n}-{COMMANDS[n].text.split(chr(10))[0][:50]}")
def test_the_page_shows_what_the_command_prints(session: Session, number: int) -> None:
    command = COMMANDS[number]
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", session.here(command.text)],
        cwd=session.folder,
        env=session.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    assert done.returncode == 0, f"$ {command.text}\n{done.stdout[-3000:]}"
    assert matches(done.stdout, command.expected), f"$ {command.text}\n{done.stdout[-3000:]}"
