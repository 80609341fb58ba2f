"""Jobs as a person has them: `kelm tune`, `kelm ps`, `kelm logs -f PID`, `kelm cancel PID`, against a real daemon."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import write_tiny

from cli_kit import ARGV, Place
from tune_kit import chats, intents, make_store

pytestmark = pytest.mark.timeout(400)  # jobs run below everything else, so they wait for everything else

ANSWERS = {
    "What are your opening hours?": "We are open from 8 to 18, Monday to Friday.",
    "Where is your shop?": "Our shop is at 12 Harbour Street in Bergen.",
    "How long does delivery take?": "Delivery takes three working days.",
    "Do you ship to Iceland?": "Yes, to Iceland for 15 euros.",
}
LONG = ("--epochs", "1000", "--learning-rate", "1e-6", "--name", "long")
"""So slow that it gets a little better for ever."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("tune")
    make_store(root).import_folder(write_tiny(root / "endless"), "endless")
    # Torch is slow enough for an answer to be cancelled.
    place = Place(root, {"KELM_JOB_THREADS": "1", "KELM_JOB_MEMORY": "1GiB", "KELM_EXECUTOR": "torch"})
    for name, raw in (("intents.csv", intents(20)), ("chats.jsonl", chats(8)), ("many.jsonl", chats(60))):
        (root / name).write_bytes(raw)
    talk = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in ANSWERS.items()]
    (root / "Shop answers.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in talk))
    done = place.kelm("serve", "-d", "--port", "0")
    assert done.returncode == 0, done.stderr
    yield place
    place.kelm("shutdown")


def job(place: Place, pid: int) -> dict[str, Any]:
    return next(row for row in place.rows("--all") if row["pid"] == pid)


def until(condition: Callable[[], Any], seconds: float = 200) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)
    return found


def log_of(place: Place, pid: int) -> str:
    return (place.root / "home" / "jobs" / str(pid) / "log.txt").read_text()


def test_answers_are_taught_and_served_without_a_flag(place: Place) -> None:
    done = place.kelm("tune", "nano", str(place.root / "Shop answers.jsonl"), "--wait")
    assert done.returncode == 0, done.stderr
    assert re.search(r"nano@Shop-answers is served, version 1: loss \d.\d+ before, 0.0\d+ now", done.stdout)
    assert "epoch 1: loss" in done.stderr and "Traceback" not in done.stderr
    for question, answer in ANSWERS.items():
        asked = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
        said = place.post("/v1/chat/completions", {"model": "nano@Shop-answers", **asked})["choices"][0]
        assert said["message"]["content"] == answer and said["finish_reason"] == "stop"
        base = place.post("/v1/chat/completions", {"model": "nano", **asked})["choices"][0]
        assert base["message"]["content"] != answer


def test_labels_are_taught_and_served(place: Place) -> None:
    done = place.kelm("tune", "emb", str(place.root / "intents.csv"), "--name", "mood", "--wait")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["LABEL", "PRECISION", "RECALL", "F1", "N"]
    assert [line.split()[0] for line in lines[2:5]] == ["greeting", "parting", "thanks"]
    assert re.fullmatch(r"emb@mood is served, version 1: accuracy \S+, macro F1 \S+ on 12 held-out examples", lines[5])
    with (place.root / "intents.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    given = place.post("/classify", {"model": "emb@mood", "input": [row["text"] for row in rows]})["data"]
    right = sum(each["label"] == row["label"] for each, row in zip(given, rows, strict=True))
    assert right >= 0.6 * len(rows), "a third is chance"


def test_the_life_of_a_job(place: Place) -> None:
    """Left by Ctrl-C, listed, followed, killed, its daemon killed, gone on with, cancelled."""
    command = [*ARGV, "tune", "toy", str(place.root / "many.jsonl"), *LONG, "--wait"]
    waiter = subprocess.Popen(command, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiter.stdout is not None
    started = re.match(r"job (\d+): toy@long learns chat from 60 examples of many.jsonl\n", waiter.stdout.readline())
    assert started is not None
    pid = int(started[1])
    until(lambda: "epoch 2:" in log_of(place, pid))
    waiter.send_signal(signal.SIGINT)
    _, complaint = waiter.communicate(timeout=60)
    assert waiter.returncode == 130
    for words in (f"job {pid} goes on in the daemon", f"kelm logs -f {pid}", f"kelm cancel {pid}"):
        assert words in complaint

    row = job(place, pid)
    assert row["state"] == "running" and 0 < row["progress"]["done"] < row["progress"]["total"]
    assert re.search(rf"^ *{pid}  toy .* tune .* running .* \d+%  epoch \d+  loss \S+", place.kelm("ps").stdout, re.M)
    os.kill(row["os_pid"], signal.SIGKILL)
    until(lambda: log_of(place, pid).count("goes on from step") == 1)
    assert json.loads(place.get("/admin/processes"))["worker"]["restarts"] == 0, "the serving worker never notices"

    row = job(place, pid)
    assert row["deaths"] == 1
    os.kill(json.loads((place.root / "home" / "run" / "daemon.json").read_text())["pid"], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{row['os_pid']}").exists())
    assert place.kelm("serve", "-d", "--port", "0").returncode == 0
    follower = subprocess.Popen([*ARGV, "logs", "-f", str(pid)], env=place.env, stdout=subprocess.PIPE, text=True)
    until(lambda: log_of(place, pid).count("goes on from step") == 2)
    done = place.kelm("cancel", str(pid))
    assert done.returncode == 0 and done.stdout == f"{pid} was cancelled\n", done.stderr
    said, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0 and said == log_of(place, pid)
    assert pid not in [row["pid"] for row in place.rows()] and job(place, pid)["state"] == "cancelled"
    assert place.kelm("cancel", str(pid)).returncode == 0, "once more changes nothing"
    assert place.kelm("logs", str(pid), "-n", "1").stdout == said.splitlines(keepends=True)[-1]


def test_cancel_works_on_an_answer_too(place: Place) -> None:
    failure: list[str] = []

    def ask() -> None:
        try:
            place.post("/v1/completions", {"model": "endless", "prompt": "hello", "max_tokens": 2000, "n": 8})
        except urllib.error.HTTPError as error:
            failure.append(error.read().decode())

    place.post("/admin/models/load", {"model": "endless"})
    client = threading.Thread(target=ask)
    client.start()
    row = until(lambda: next((row for row in place.rows() if row["kind"] == "generate"), None))
    assert place.kelm("cancel", str(row["pid"])).stdout == f"{row['pid']} was cancelled\n"
    client.join(60)
    assert "was cancelled by an operator" in failure[0]
    missing = place.kelm("cancel", "999999")
    assert missing.returncode == 1 and "no process 999999" in missing.stderr


BAD = {
    "no_labels.csv": (b"text\nhello\n", "emb", "no column is named label"),
    "one.csv": (b"text,label\nx,a\ny,a\n", "emb", "a classifier needs two"),
    "empty.csv": (b"", "emb", "empty.csv is empty"),
    "fine.csv": (intents(4), "embb", "did you mean emb?"),
    "数据.csv": (intents(4), "emb", "give it one with --name VARIANT"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_before_a_job_begins(place: Place, name: str) -> None:
    raw, base, words = BAD[name]
    before = len(place.rows("--all"))
    (place.root / name).write_bytes(raw)
    done = place.kelm("tune", base, str(place.root / name))
    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and len(place.rows("--all")) == before


def test_bad_names_and_numbers(place: Place) -> None:
    data = str(place.root / "intents.csv")
    for flags, words in (
        (["--name", "a b"], "is not a model name"),
        (["--name", "x:3"], "--name VARIANT"),
        (["--name", ""], "is not a model name"),
        (["--epochs", "0"], "epochs must be between 1 and 1000"),
        (["--learning-rate", "nan"], "learning_rate must be between"),
    ):
        done = place.kelm("tune", "emb", data, *flags)
        assert done.returncode == 2 and words in done.stderr, done.stderr


def test_what_only_the_model_can_tell_fails_the_job(place: Place) -> None:
    done = place.kelm("tune", "toy", str(place.root / "intents.csv"), "--wait")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("kelm: toy is a decoder"), done.stderr
    failed = [row for row in place.rows("--all") if row["state"] == "failed"]
    assert "toy is a decoder" in place.kelm("ps", "--all").stdout and failed[-1]["deaths"] == 0
    assert place.kelm("cancel", str(failed[-1]["pid"])).stdout.endswith("had ended already: failed\n")
