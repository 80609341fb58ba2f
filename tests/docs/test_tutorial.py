"""docs/tutorial.md: every command runs, in order, on a fresh home, and prints what the page shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, Document
from transcripts import Command, commands, matches

TUTORIAL = Document.read(ROOT / "docs" / "tutorial.md")
COMMANDS = commands(TUTORIAL)
COMMAND_S = 300


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder to work in, and the environment of a user who has just installed Kelm."""
    folder = tmp_path_factory.mktemp("tutorial")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    kelm = bin_folder / "kelm"
    kelm.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore -m kelm.cli "$@"\n')
    kelm.chmod(0o755)
    (bin_folder / "python").symlink_to(sys.executable)
    (folder / "examples").symlink_to(ROOT / "examples")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KELM_", "OPENAI_"))}
    paths = {
        "PATH": os.pathsep.join([str(bin_folder), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])),
    }
    # A width that tables fit into, one thread for each process, and a port that nobody else has.
    fixed = {
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "KELM_PORT": "0",
        "KELM_MEMORY": "2GiB",
        "PYTHONWARNINGS": "ignore",
    }
    environment = {**kept, **paths, **fixed, "KELM_HOME": str(folder / "home"), "HOME": str(folder)}
    yield folder, environment
    subprocess.run(["kelm", "shutdown"], cwd=folder, env=environment, capture_output=True, check=False)


@pytest.mark.timeout(COMMAND_S)
@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=lambda n: f"{n}-{COMMANDS[n].text.split(chr(10))[0][:50]}")
def test_the_page_shows_what_the_command_prints(session: tuple[Path, dict[str, str]], number: int) -> None:
    folder, environment = session
    command: Command = COMMANDS[number]
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", command.text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    assert done.returncode == 0, f"$ {command.text}\n{done.stdout[-3000:]}"
    assert matches(done.stdout, command.expected), f"$ {command.text}\n{done.stdout[-3000:]}"
