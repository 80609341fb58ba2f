"""Builds what takes part and is not there yet: engines in environments of their own, checkpoints, their other forms.

peers.sh makes the engines, checkpoints.py random weights in real shapes, gguf_file.py and quantize.py llama.cpp's forms
of them; this file knows in which order, and brings the checkpoints into Kelm's store.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.contenders import GGUF, OPENVINO, PEERS, Target

HERE = Path(__file__).parent
BITS = {"int8": "8", "int4": "4"}
ARCHITECTURES = {"qwen05": "qwen2", "llama1b": "llama"}


def build(targets: Sequence[Target], who: Collection[str]) -> None:
    """Everything that ``who`` needs for ``targets``; about half an hour and 15 GB from nothing, nothing when it is
    there. Raises CalledProcessError."""
    _engine("checkpoints")
    for engine in ("llama", "openvino", "vllm"):
        if engine in who:
            _engine(engine)
    for target in targets:
        if not target.checkpoint.joinpath("model.safetensors").exists():
            _run(PEERS / "hf/bin/python", HERE / "checkpoints.py", PEERS / "models", target.model)
        _kelm(target)
        if "llama" in who:
            _gguf(target)
        if "openvino" in who:
            _openvino(target)


def _engine(name: str) -> None:
    _run("bash", HERE / "peers.sh", name)


def _kelm(target: Target) -> None:
    """Its bf16 weights imported; what is smaller made from them by `kelm compress`, which leaves a tied head alone."""
    env = {"KELM_HOME": str(target.kelm_home), "KELM_PORT": "0"}
    kelm = (sys.executable, "-m", "kelm.cli")
    if _missing(kelm, target.model, env):
        _run(*kelm, "import", target.checkpoint, "--name", target.model, env=env)
    if target.precision in BITS and _missing(kelm, target.kelm_name, env):
        options = ("--bits", BITS[target.precision], "--name", target.kelm_name, "--wait")
        try:
            _run(*kelm, "compress", target.model, *options, env=env)
        finally:
            _run(*kelm, "shutdown", env=env)


def _missing(kelm: Sequence[str], name: str, env: dict[str, str]) -> bool:
    done = subprocess.run(
        [*kelm, "show", name],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode != 0


def _gguf(target: Target) -> None:
    if not target.checkpoint.joinpath("bf16.gguf").exists():
        _run(PEERS / "hf/bin/python", HERE / "gguf_file.py", target.checkpoint, ARCHITECTURES[target.model])
    if not target.gguf.exists():
        source = target.checkpoint / "bf16.gguf"
        _run(PEERS / "llama/bin/python", HERE / "quantize.py", source, target.gguf, GGUF[target.precision])


def _openvino(target: Target) -> None:
    if target.openvino.joinpath("openvino_model.bin").exists():
        return
    kind = OPENVINO[target.precision]
    groups = ("--ratio", "1.0", "--group-size", "64", "--sym") if kind == "int4" else ()
    _run(
        PEERS / "openvino/bin/optimum-cli", "export", "openvino", "-m", target.checkpoint,
        "--task", "text-generation-with-past", "--weight-format", kind, *groups, target.openvino,
        env={"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def _run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    PEERS.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "PEERS": str(PEERS), **(env or {})}
    subprocess.run([str(part) for part in command], env=environ, stdin=subprocess.DEVNULL, check=True)
