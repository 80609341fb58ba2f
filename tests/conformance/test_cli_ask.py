"""`kelm ask` and `kelm pretrain` as somebody types them: a real daemon, the shipped model, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import kelm

ARGV = [sys.executable, "-m", "kelm.cli"]
PATIENCE_S = 60


@dataclass(frozen=True)
class Home:
    root: Path

    @property
    def env(self) -> dict[str, str]:
        paths = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(kelm.__file__).parents[1]), "TERM": "dumb"}
        return {**paths, "KELM_HOME": str(self.root), "KELM_THREADS": "1", "KELM_MEMORY": "512MiB"}

    def kelm(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*ARGV, *args], env=self.env, capture_output=True, text=True, timeout=100, check=False)

    def typed(self, *args: str, answers: str) -> tuple[str, int]:
        """What a terminal shows when ``answers`` are typed one line after the other, and the exit code."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [*ARGV, *args], self.env)
        shown, lines, deadline = "", answers.splitlines(), time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                shown += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the other end has closed
                break
            if lines and re.search(r"(\[[yYnN]/[yYnN]\]|[A-Z]{3,}:) $", shown):
                os.write(terminal, (lines.pop(0) + "\n").encode())
        os.close(terminal)  # whoever still waits for an answer gets SIGHUP
        _, status = os.waitpid(pid, 0)
        return shown, os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("ask"))
    done = home.kelm("serve", "-d", "--port", "0")
    assert done.returncode == 0, done.stderr
    yield home
    assert home.kelm("shutdown").returncode == 0


def test_piped_it_only_answers(home: Home) -> None:
    done = home.kelm("ask", "which version is this?")
    assert (done.returncode, done.stderr) == (0, "")
    assert "`kelm --version`" in done.stdout
    assert "Run" not in done.stdout


def test_on_a_terminal_a_command_is_offered_and_run(home: Home) -> None:
    shown, code = home.typed("ask", "which version is this?", answers="y")
    assert "Run `kelm --version`? [Y/n]" in shown
    assert f"kelm {kelm.__version__}" in shown
    assert code == 0
    shown, code = home.typed("ask", "which version is this?", answers="n")
    assert f"kelm {kelm.__version__}" not in shown
    assert code == 0


def test_what_is_missing_is_asked_for_and_what_stops_is_confirmed(home: Home) -> None:
    question = "how do I unload a model from memory?"
    shown, code = home.typed("ask", question, answers="no-such-model\ny")
    assert "`kelm stop MODEL`" in shown
    assert "Run `kelm stop no-such-model`? [y/N]" in shown
    assert "no-such-model" in shown.rpartition("[y/N]")[2].partition("\n")[2], "the command itself spoke"
    assert code != 0
    shown, code = home.typed("ask", question, answers="no-such-model\n\n")
    assert shown.rstrip().endswith("[y/N]"), "a bare Enter runs nothing that stops something"
    assert code == 0
    shown, code = home.typed("ask", question, answers="--all")
    assert "must not be empty or begin with" in shown
    assert code == 2


def test_a_model_that_the_question_names_needs_no_asking(home: Home) -> None:
    shown, _ = home.typed("ask", "how do I unload nano from memory?", answers="n")
    assert "Run `kelm stop nano`? [y/N]" in shown


def test_a_pretrained_model_is_imported_and_runs(tmp_path: Path, home: Home) -> None:
    line = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello!"}]}
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(line) + "\n") * 20)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tree = {
        "name": "baby",
        "data": {"files": "train.jsonl", "heldout_files": "heldout.jsonl"},
        "tokenizer": {"vocab_size": 300},
        "model": {**shape, "num_key_value_heads": 1, "max_position_embeddings": 64},
        "train": {"steps": 5, "batch_rows": 2, "row_tokens": 32, "learning_rate": 0.01},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    done = home.kelm("pretrain", str(recipe))
    assert done.returncode == 0, done.stderr
    assert home.kelm("import", str(tmp_path / "model"), "--name", "baby").returncode == 0
    assert home.kelm("run", "baby", "hello").returncode == 0, "a model from the trainer runs like any other"

    recipe.write_text(yaml.safe_dump({**tree, "steps": 5}))
    done = home.kelm("pretrain", str(recipe))
    assert done.returncode == 2
    assert "unknown key 'steps'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_pretraining_at_a_checkpoint(tmp_path: Path, home: Home) -> None:
    line = json.dumps({"text": "the quick brown fox jumps over the lazy dog " * 8}) + "\n"
    (tmp_path / "all.jsonl").write_text(line * 40)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tree = {
        "name": "long",
        "data": {"files": "all.jsonl", "heldout_files": "all.jsonl"},
        "tokenizer": {"vocab_size": 300},
        "model": {**shape, "num_key_value_heads": 1, "max_position_embeddings": 64},
        "train": {"steps": 100000, "batch_rows": 4, "row_tokens": 64, "learning_rate": 0.01, "checkpoint_every": 5},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    process = subprocess.Popen([*ARGV, "pretrain", str(recipe)], env=home.env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while not list((tmp_path / ".run" / "long").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "the same command goes on from here" in said
