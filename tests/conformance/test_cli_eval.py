"""`kelm eval` as a person runs it, and the example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval_kit import make_home, task_file

ROOT = Path(__file__).parents[2]
ROWS = [{"text": "The quick brown fox"}, {"text": "怎么卸载一个模型?"}, {"text": "a lazy dog"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("eval"))


def run(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "KELM_HOME": str(home), "KELM_MEMORY": "256MiB",
        "KELM_THREADS": "1", "KELM_DTYPE": "float32",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *map(str, command)], env=env, capture_output=True, text=True, check=False, timeout=100
    )


def test_a_table_a_picture_and_the_same_as_json(home: Path, tmp_path: Path) -> None:
    path, out = task_file(tmp_path, ROWS), tmp_path / "report.png"
    shown = run(home, "-m", "kelm.cli", "eval", "tiny", path, "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "tiny:latest on task.jsonl: perplexity, n = 3" in shown.stdout and "bits per byte" in shown.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
    plain = run(home, "-m", "kelm.cli", "eval", "tiny", path, "--json", "--limit", "2")
    made = json.loads(plain.stdout)
    assert (made["n"], made["kind"]) == (2, "perplexity") and made["metrics"]["perplexity"] > 1


def test_bad_input_is_two_and_says_what_to_do(home: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for command, words in [
        (("eval", "tiny", empty), "kelm: empty.jsonl: no rows; write one JSON object a line"),
        (("eval", "labels", task_file(tmp_path, ROWS)), "perplexity (rows with text alone) needs a decoder"),
        (("eval", "tiny", task_file(tmp_path, ROWS), "--out", tmp_path / "report.pdf"), "doesn't end in .png"),
    ]:
        done = run(home, "-m", "kelm.cli", *command)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_example(home: Path, tmp_path: Path) -> None:
    done = run(home, ROOT / "examples" / "evaluate.py", "tiny", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"perplexity", "macro F1", "ROUGE-L"} <= {row.split("  ")[0] for row in done.stdout.splitlines()}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["answers.png", "labels.png", "texts.png"]
    assert len((ROOT / "examples" / "evaluate.py").read_text("utf-8").splitlines()) < 80
