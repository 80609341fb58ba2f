"""The real command in a process of its own: everything that needs no daemon."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_hub import Hub
from safetensors.numpy import save, save_file

import kelm
from kelm.cli.ports import listener

Kelm = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = (
    *("run", "serve", "shutdown", "ps", "pull", "import", "list", "show"),
    *("stop", "rm", "logs", "ask", "doctor", "config", "pretrain", "compress"),
)


@pytest.fixture
def kelm_(tmp_path: Path) -> Kelm:
    def call(*args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        base = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(kelm.__file__).parents[1]),
            "KELM_HOME": str(tmp_path / "home"),
            "HF_HOME": str(tmp_path / "hf"),
            "KELM_PORT": "9",  # nobody is there
        }
        argv = [sys.executable, "-m", "kelm.cli", *args]
        return subprocess.run(
            argv, env={**base, **env}, input=stdin, capture_output=True, text=True, check=False, timeout=60
        )

    return call


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Exit code, and one line on stderr with these words."""
    assert done.returncode == code, done
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "My Model"
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"t": np.zeros((3, 5), np.float32)}, folder / "model.safetensors")
    return folder


def test_help_is_quick_and_names_every_command(kelm_: Kelm) -> None:
    seconds = []
    for _ in range(10):
        before = os.times()
        done = kelm_("--help")
        after = os.times()
        seconds.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )  # of processor time: what it takes on a machine with a core to spare, measured on one without
    assert done.returncode == 0 and all(f"  {command} " in done.stdout for command in COMMANDS)
    assert "..." not in done.stdout.partition("Commands:")[2], "a command's line is cut"
    assert statistics.median(seconds) <= 0.15, seconds


def test_no_command_imports_torch(kelm_: Kelm, folder: Path) -> None:
    kelm_("import", str(folder))
    for args in (["list"], ["show", "My-Model"], ["doctor"], ["config", "show"], ["ps"], ["--help"]):
        program = f"""
import sys
sys.argv = ["kelm", *{args!r}]
from kelm.cli.main import main
try:
    main()
except SystemExit:
    pass
assert not {{"torch", "transformers"}} & set(sys.modules), "{args}"
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "KELM_HOME": str(folder.parent / "home"), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_version_and_usage(kelm_: Kelm) -> None:
    assert kelm_("--version").stdout == f"kelm {kelm.__version__}\n"
    for args, word in (
        (["sevre"], "Did you mean 'serve'?"),
        (["serve", "--prot", "1"], "--port"),
        (["show"], "Missing argument 'MODEL'"),
        ([], ""),
    ):
        done = kelm_(*args)
        assert done.returncode == 2 and word in done.stderr + done.stdout


def test_import_list_show_rm(kelm_: Kelm, folder: Path) -> None:
    done = kelm_("import", str(folder))
    assert done.returncode == 0 and done.stdout.startswith("My-Model is here: ") and done.stderr == ""
    assert kelm_("import", str(folder), "--name", "org/toy:v1").returncode == 0
    rows = json.loads(kelm_("list", "--json").stdout)
    assert {"My-Model:latest", "org/toy:v1"} <= {row["name"] for row in rows}
    assert "org/toy:v1" in kelm_("list").stdout
    facts = json.loads(kelm_("show", "org/toy:v1", "--json").stdout)
    assert facts["architecture"] == "LlamaForCausalLM" and facts["parameters"] == 15 and facts["dtypes"] == ["F32"]
    assert set(facts["files"]) == {"config.json", "model.safetensors"} and facts["resident"] is None
    assert "LlamaForCausalLM" in kelm_("show", "org/toy:v1").stdout
    assert kelm_("rm", "org/toy:v1", "My-Model").returncode == 0
    names = {row["name"] for row in json.loads(kelm_("list", "--json").stdout)}
    assert not {"My-Model:latest", "org/toy:v1"} & names


def test_mistakes(kelm_: Kelm, folder: Path, tmp_path: Path) -> None:
    kelm_("import", str(folder), "--name", "llama")
    refused(kelm_("show", "lama"), 1, "there is no model lama here; did you mean llama?")
    refused(kelm_("rm", "lama"), 1, "did you mean llama?")
    refused(kelm_("run", "lama", "hello"), 1, "did you mean llama?")
    refused(kelm_("pull", "../../etc"), 2, "is not a model name")
    refused(kelm_("import", str(tmp_path / "nothing")), 1, "there is no folder")
    refused(kelm_("import", str(folder), "--name", "LLAMA"), 2, "only by case")
    refused(kelm_("run", "llama"), 2, "standard input is empty")
    refused(kelm_("ps"), 1, "no daemon runs at http://127.0.0.1:9", "kelm serve -d")
    refused(kelm_("ps", KELM_PORT=""), 1, f"no daemon runs for {tmp_path}/home", "kelm serve -d")
    refused(kelm_("logs"), 1, "no log yet")
    refused(kelm_("list", KELM_HOME="/proc/nowhere"), 1, "/proc/nowhere")
    (tmp_path / "home" / "VERSION").write_text("99\n")
    refused(kelm_("list"), 1, "newer Kelm", "format 99")


def test_settings_are_shown_with_their_sources(kelm_: Kelm, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text("max_queued: 5\n")
    shown = json.loads(kelm_("config", "show", "--json", KELM_API_KEY="sk-secret").stdout)
    assert shown["max_queued"] == {"value": 5, "source": "file"}
    assert shown["port"] == {"value": 9, "source": "environment"}
    assert shown["host"]["source"] == "default" and shown["api_key"]["value"] == "(set)"
    table = kelm_("config", "show", KELM_API_KEY="sk-secret").stdout
    assert "max_queued" in table and "sk-secret" not in table
    refused(kelm_("config", "show", KELM_PROT="1"), 2, "KELM_PROT", "did you mean KELM_PORT")
    (tmp_path / "home" / "config.yaml").write_text("max_queue: 5\n")
    refused(kelm_("list"), 2, "max_queue", "did you mean max_queued")


def test_doctor(kelm_: Kelm) -> None:
    done = kelm_("doctor", "--json")
    states = {finding["what"]: finding["state"] for finding in json.loads(done.stdout)}
    assert done.returncode == (1 if "lacks" in states.values() else 0)
    assert states["python"] == states["home"] == "has" and states["daemon"] == "notes"
    done = kelm_("doctor", "--json", KELM_HOME="/proc/nowhere")
    states = {finding["what"]: finding["state"] for finding in json.loads(done.stdout)}
    assert done.returncode == 1 and states["home"] == "lacks"


def test_pull(kelm_: Kelm, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": save({"t": np.ones(9, np.float32)})}
    hub = Hub({"org/toy": files}).start()
    try:
        done = kelm_("pull", "org/toy", HF_ENDPOINT=hub.url)
        assert done.returncode == 0 and done.stdout.startswith("org/toy is here: ") and done.stderr == ""
        refused(kelm_("pull", "org/tyo", HF_ENDPOINT=hub.url), 1, "there is no model org/tyo on the hub")
    finally:
        hub.stop()


def test_model_names_are_completed(kelm_: Kelm, folder: Path) -> None:
    kelm_("import", str(folder), "--name", "llama")
    done = kelm_(_KELM_COMPLETE="complete_bash", COMP_WORDS="kelm show lla", COMP_CWORD="2")
    assert "llama" in done.stdout.split()


def test_who_listens_on_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = listener(port)
        assert found is not None and found.pid == os.getpid() and "pytest" in found.command
    assert listener(port) is None


def test_pretrain_refuses_a_bad_recipe(kelm_: Kelm, tmp_path: Path) -> None:
    assert kelm_("pretrain", str(tmp_path / "none.yaml")).returncode == 2
    (tmp_path / "recipe.yaml").write_text("nonsense: 1\n")
    refused(kelm_("pretrain", str(tmp_path / "recipe.yaml")), 2, "nonsense")


def test_a_closed_pipe_is_no_traceback(kelm_: Kelm, tmp_path: Path) -> None:
    argv = f"{sys.executable} -m kelm.cli list --json | true; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "KELM_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", argv], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
