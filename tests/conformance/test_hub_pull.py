"""`Store.pull` against a server that speaks the hub's protocol, in a process of its own as the command is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import COMMIT, Hub
from safetensors.numpy import save

import kelm
from kelm.store import Store

WEIGHTS = "model.safetensors"
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def checkpoint(value: float = 1.0, shards: bool = False) -> dict[str, bytes]:
    files = {
        "config.json": json.dumps({"model_type": "llama", "value": value}).encode(),
        "tokenizer.json": b'{"model": {}}',
        "1_Pooling/config.json": b"{}",
        "README.md": b"# not data",
        "pytorch_model.bin": b"a pickle",
        "modeling_evil.py": b"raise SystemExit",
    }
    if not shards:
        return {**files, WEIGHTS: save({"t": np.full(500_000, value, np.float32)}), "other.safetensors": b"x"}
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    return {
        **files,
        "model.safetensors.index.json": json.dumps(index).encode(),
        SHARDS[0]: save({"a": np.full(9_000, value, np.float32)}),
        SHARDS[1]: save({"b": np.full(9_000, value + 1, np.float32)}),
        "consolidated.safetensors": b"the same again",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub({"org/toy": checkpoint(), "org/sharded": checkpoint(2.0, shards=True), "gpt2": checkpoint(3.0)}).start()
    yield hub
    hub.stop()


PROGRAM = """
import json, os, sys
from pathlib import Path
from kelm.errors import KelmError
from kelm.store import Store
seen = []
try:
    store = Store(Path(os.environ["KELM_HOME"]))
    model = store.pull(sys.argv[1], lambda what, done, total: seen.append((what, done, total)))
    print(json.dumps({"name": model.name, "source": model.source, "paths": store.paths(model), "seen": seen}))
except KelmError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message}))
"""


def environment(hub: Hub | None, tmp_path: Path, **extra: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(kelm.__file__).parents[1]),
        "KELM_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **extra,
    }


def pull(hub: Hub | None, tmp_path: Path, name: str, **extra: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env=environment(hub, tmp_path, **extra),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


def cache_blobs(tmp_path: Path) -> dict[int, Path]:
    return {path.stat().st_ino: path for path in (tmp_path / "hf").rglob("blobs/*")}


def test_pull_takes_data_only_and_links_it(hub: Hub, tmp_path: Path) -> None:
    got = pull(hub, tmp_path, "org/toy")
    assert got["name"] == "org/toy:latest" and got["source"] == f"hub:org/toy@{COMMIT}"
    assert set(got["paths"]) == {"config.json", "tokenizer.json", "1_Pooling/config.json", WEIGHTS}
    assert all(Path(path).read_bytes() == hub.repos["org/toy"][name] for name, path in got["paths"].items())
    cached = cache_blobs(tmp_path)
    assert all(Path(path).stat().st_ino in cached for path in got["paths"].values())
    assert not any(path.endswith((".bin", ".py", ".md")) for _, path, _ in hub.requests)
    total = sum(len(hub.repos["org/toy"][name]) for name in got["paths"])
    assert ["downloading", total, total] in got["seen"] and got["seen"][-1] == ["verifying", total, total]


def test_a_second_pull_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    first = pull(hub, tmp_path, "org/toy")
    hub.requests.clear()
    assert pull(hub, tmp_path, "org/toy")["paths"] == first["paths"]
    assert hub.gets(WEIGHTS) == []
    Store(tmp_path / "home").remove("org/toy")
    assert cache_blobs(tmp_path), "removing the model leaves the cache alone"
    again = pull(hub, tmp_path, "org/toy")
    assert hub.gets(WEIGHTS) == [] and again["paths"] == first["paths"]


def test_clearing_the_cache_leaves_the_model(hub: Hub, tmp_path: Path) -> None:
    got = pull(hub, tmp_path, "org/toy")
    for path in cache_blobs(tmp_path).values():
        path.unlink()
    assert Path(got["paths"][WEIGHTS]).read_bytes() == hub.repos["org/toy"][WEIGHTS]


def test_shards_of_the_index_and_names_without_an_owner(hub: Hub, tmp_path: Path) -> None:
    got = pull(hub, tmp_path, "org/sharded")
    assert {name for name in got["paths"] if name.endswith("safetensors")} == set(SHARDS)
    assert pull(hub, tmp_path, "gpt2:v1")["name"] == "gpt2:v1"
    hub.repos["org/sharded"].pop(SHARDS[1])
    Store(tmp_path / "home").remove("org/sharded")
    assert SHARDS[1] in pull(hub, tmp_path, "org/sharded")["message"]


def test_a_dropped_connection_resumes_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.repos["org/toy"][WEIGHTS] = save({"t": np.ones(3_000_000, np.float32)})
    hub.cut_after[WEIGHTS] = 11_000_000
    got = pull(hub, tmp_path, "org/toy")
    assert Path(got["paths"][WEIGHTS]).read_bytes() == hub.repos["org/toy"][WEIGHTS]
    assert hub.gets(WEIGHTS) == [None, f"bytes={10 << 20}-"], "in the library's pieces of 10 MiB"


def test_a_killed_pull_leaves_nothing_and_the_next_one_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.stall[SHARDS[1]] = 10_000
    argv = [sys.executable, "-c", PROGRAM, "org/sharded"]
    child = subprocess.Popen(argv, env=environment(hub, tmp_path), stdout=subprocess.DEVNULL)
    while not hub.gets(SHARDS[1]):
        time.sleep(0.02)
        assert child.poll() is None
    child.kill()
    child.wait()
    assert [model.name for model in Store(tmp_path / "home").list() if model.source != "package"] == []
    hub.stall.clear()
    hub.requests.clear()
    got = pull(hub, tmp_path, "org/sharded")
    assert Path(got["paths"][SHARDS[1]]).read_bytes() == hub.repos["org/sharded"][SHARDS[1]]
    assert hub.gets(SHARDS[0]) == [], "what had arrived whole is not fetched again"


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_corrupted_bytes_are_refused_and_forgotten(hub: Hub, tmp_path: Path, file: str) -> None:
    hub.corrupt.add(file)
    got = pull(hub, tmp_path, "org/toy")
    assert got["error"] == "ModelFormatError" and file in got["message"] and "pull again" in got["message"]
    assert not list((tmp_path / "home" / "blobs").glob("sha256-*"))
    hub.corrupt.clear()
    assert pull(hub, tmp_path, "org/toy")["name"] == "org/toy:latest"


def test_a_malformed_checkpoint_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repos["org/toy"][WEIGHTS] = b"\xff" * 64
    got = pull(hub, tmp_path, "org/toy")
    assert got["error"] == "ModelFormatError" and f"{WEIGHTS}: header size" in got["message"]
    del hub.repos["org/toy"][WEIGHTS], hub.repos["org/toy"]["other.safetensors"]
    assert "pytorch_model.bin, a pickle" in pull(hub, tmp_path, "org/toy")["message"]
    del hub.repos["org/toy"]["config.json"]
    got = pull(hub, tmp_path / "2", "org/toy")
    assert got["error"] == "ModelFormatError" and "config.json" in got["message"]


def test_gated_needs_the_token(hub: Hub, tmp_path: Path) -> None:
    hub.gated["org/toy"] = "hf_good"
    got = pull(hub, tmp_path, "org/toy")
    assert got["error"] == "Unauthorized" and f"{hub.url}/org/toy" in got["message"] and "HF_TOKEN" in got["message"]
    assert pull(hub, tmp_path, "org/toy", HF_TOKEN="hf_good")["name"] == "org/toy:latest"


def test_unknown_names_get_near_matches_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    got = pull(hub, tmp_path, "org/shardde")
    assert got["error"] == "ModelNotFound" and "did you mean org/sharded?" in got["message"]
    got = pull(hub, tmp_path, "org/toy:v9")
    assert got["error"] == "ModelNotFound" and "v9" in got["message"]


def test_without_a_connection_the_cache_is_enough(hub: Hub, tmp_path: Path) -> None:
    first = pull(hub, tmp_path, "org/toy")
    Store(tmp_path / "home").remove("org/toy")
    for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
        got = pull(None, tmp_path, "org/toy", **extra)
        assert got.get("paths") == first["paths"], got
        Store(tmp_path / "home").remove("org/toy")
    got = pull(None, tmp_path, "org/sharded")
    assert got["error"] == "StoreError" and "can't be reached" in got["message"]


def test_another_disk_gets_symbolic_links(hub: Hub, tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=elsewhere) as cache:
        got = pull(hub, tmp_path, "org/toy", HF_HOME=cache)
        assert Path(got["paths"][WEIGHTS]).is_symlink()
        assert Path(got["paths"][WEIGHTS]).read_bytes() == hub.repos["org/toy"][WEIGHTS]
    assert "StoreError" in pull(None, tmp_path, "org/toy")["error"]
