"""`kelm compress` as a person runs it, its results as anybody asks them, and the example."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress_kit import make_home
from daemon_kit import Daemon, daemon, environment, write_bert

ROOT = Path(__file__).parents[2]
TEXT = "The quick brown fox jumps over the lazy dog.\nIt is, isn't it? Yes, it is!\n"
SETTINGS: dict[str, Any] = {"job_threads": 1, "job_memory": "256MiB"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    from transformers import BertModel

    from kelm.store import Store

    folder = tmp_path_factory.mktemp("compress")
    home = make_home(folder)
    Store(home).import_folder(write_bert(folder / "emb", BertModel, ["a", "b"]), "emb")
    (folder / "fox.txt").write_text(TEXT)
    with daemon(home, **SETTINGS) as running:
        yield running, home


def run(home: Path, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Commands find the daemon through the home."""
    settings = {name: value for name, value in environment(home, **SETTINGS).items() if name != "KELM_PORT"}
    return subprocess.run(
        [sys.executable, *map(str, command)], env={**settings, **env}, capture_output=True, text=True, check=False,
        timeout=110,
    )  # fmt: skip


def kelm(home: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return run(home, "-m", "kelm.cli", *args)


def test_the_table_the_picture_and_the_model_served(served, tmp_path):
    server, home = served
    out = tmp_path / "cost.png"
    fox = home.parent / "fox.txt"
    done = kelm(home, "compress", "tiny", "--bits", "4", "--text", fox, "--wait", "--out", out)
    assert done.returncode == 0, done.stderr + server.tail()
    rows = {line[:10].strip(): line[10:].split() for line in reversed(done.stdout.splitlines())}
    assert rows["layers"] == ["4", "4"] and rows["precision"] == ["float32", "int4", "group", "32"]
    before, after = map(float, rows["perplexity"])
    assert 1 < before != after > 1
    assert "perplexity on fox.txt" in done.stdout and "tiny:int4 is served; the picture is in" in done.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
    resident = [row["name"] for row in server.get("/admin/models")["models"] if row["state"] == "resident"]
    assert "tiny:int4" in resident, "served, before anybody asks it"
    asked = {"prompt": "The quick", "max_tokens": 6, "temperature": 0}
    answers = [server.post("/v1/completions", {"model": name, **asked}) for name in ("tiny", "tiny:int4")]
    assert all(one["usage"]["completion_tokens"] == 6 for one in answers)
    models = {row["name"]: row for row in server.get("/admin/models")["models"]}
    whole, small = models["tiny:latest"], models["tiny:int4"]
    assert small["dtype"] == "int4 group 32"
    assert small["weight_bytes"] < 0.5 * whole["weight_bytes"] and small["parameters"] == whole["parameters"]
    table = kelm(home, "ps", "--models").stdout
    assert "int4 group 32" in table and "float32" in table


def test_show_says_what_it_was_made_from(served):
    _, home = served
    done = kelm(home, "compress", "tiny", "--drop-layers", "1", "--text", home.parent / "fox.txt", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)["compression"]
    shown = kelm(home, "show", "tiny:drop1").stdout
    assert f"made from tiny:latest ({record['source_digest'][7:19]}): layers {record['removed'][0]} removed" in shown
    assert f"{record['before']['perplexity']:.2f}" in shown and f"{record['after']['perplexity']:.2f}" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert [str(record["removed"][0]), f"{record['influence'][record['removed'][0]]:.4f}", "removed"] in lines
    facts = json.loads(kelm(home, "show", "tiny:drop1", "--json").stdout)
    assert facts["compression"] == record and facts["parameters"] == record["after"]["parameters"]
    packed = json.loads(kelm(home, "show", "tiny:int4", "--json").stdout)
    assert packed["precision"] == "int4 group 32" and packed["parameters"] == record["before"]["parameters"]
    plain = json.loads(kelm(home, "show", "tiny", "--json").stdout)
    assert plain["compression"] is None and plain["precision"] == "F32"
    assert packed["parameters"] == plain["parameters"]


def test_without_wait_it_is_a_job(served):
    server, home = served
    done = kelm(home, "compress", "tiny", "--bits", "8", "--name", "tiny:eight", "--text", home.parent / "fox.txt")
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout.split()[1])
    assert f"job {pid} makes tiny:eight: `kelm logs -f {pid}` follows it" in done.stdout and done.stderr == ""
    followed = kelm(home, "logs", "-f", str(pid))
    assert "int8 by rounding to nearest" in followed.stdout and "perplexity" in followed.stdout
    row = server.get(f"/admin/jobs/{pid}")
    assert (row["state"], row["kind"], row["result"]["model"]) == ("done", "compress", "tiny:eight")
    assert row["spec"]["file"] == "fox.txt"


def test_a_job_that_fails_says_why(served):
    _, home = served
    done = kelm(home, "compress", "tiny", "--bits", "4", "--group", "64", "--wait")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "kelm: --group 64 does not divide the 96 inputs of model.layers.0.mlp.down_proj.weight; try --group 32"
    )
    done = kelm(home, "compress", "emb", "--bits", "8", "--wait")
    assert done.returncode == 2 and "emb:latest is an encoder (bert); kelm compress takes decoders" in done.stderr


def test_bad_input_starts_no_job(served, tmp_path):
    server, home = served
    before = len(server.get("/admin/jobs")["jobs"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").touch()
    for args, code, words in [
        (["tiny"], 2, "nothing to do: give --bits 8"),
        (["tiny", "--bits", "3"], 2, "--bits must be 8 or 4, got 3"),
        (["tiny", "--bits", "8", "--group", "32"], 2, "--group is for --bits 4"),
        (["tiny", "--drop-layers", "9"], 2, "at most 2 can go"),
        (["tiny", "--drop", "1,x"], 2, "--drop must be numbers of layers"),
        (["tiny", "--drop", "0,1,2,3"], 2, "one has to stay"),
        (["tiny@mine", "--bits", "8"], 2, "tiny@mine is a variant; kelm compress takes whole models"),
        (["tinny", "--bits", "8"], 1, "did you mean tiny"),
        (["tiny", "--bits", "8", "--name", "emb"], 2, "emb is here already"),
        (["tiny", "--bits", "8", "--out", tmp_path / "a.png"], 2, "give --wait too"),
        (["tiny", "--bits", "8", "--wait", "--out", tmp_path / "a.pdf"], 2, "doesn't end in .png"),
        (["tiny", "--bits", "8", "--text", tmp_path / "latin.txt"], 2, "latin.txt:1: not UTF-8 at byte 4"),
        (["tiny", "--bits", "8", "--text", tmp_path / "empty.txt"], 2, "empty.txt: there is no text in it"),
    ]:
        done = kelm(home, "compress", *args)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    spec = {"kind": "compress", "model": "tiny", "name": "tiny:x", "bits": 8}
    for wrong in ({"file": "a.txt"}, {"bits": 3}, {"group": 33}, {"drop": [-1]}, {"drop_layers": 2000}, {"model": "x"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.post("/admin/jobs", {"spec": spec | wrong})
        assert refused.value.code in (400, 404)
        refused.value.close()
    assert len(server.get("/admin/jobs")["jobs"]) == before


def test_the_example(served):
    server, home = served
    done = run(home, ROOT / "examples" / "compress.py", "tiny", KELM_URL=server.url)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["MODEL", "tiny", "tiny:int8", "tiny:int4", "tiny:drop1", "int4"]
    whole, eight, four, dropped = ([float(figure) for figure in row[-3:]] for row in rows[1:5])
    assert four[0] < eight[0] < dropped[0] < whole[0] and four[1] < eight[1] < dropped[1] < whole[1]
    assert len({row[-1] for row in rows[1:5]}) == 4, "each has a perplexity of its own"
    assert len((ROOT / "examples" / "compress.py").read_text("utf-8").splitlines()) < 80
