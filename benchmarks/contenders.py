"""Who takes part: an engine with a model in one precision, in a process of its own.

in process   a driver (drivers/) in the engine's own environment, which makes the engine's calls
server       the engine's own server, and clients that stream from it (servers.py)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import msgspec

from benchmarks.record import Facts, Timing

PEERS = Path(os.environ.get("PEERS", "~/.cache/kelm-peers")).expanduser()
DRIVERS = Path(__file__).parent / "drivers"
GGUF = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
OPENVINO = {"bf16": "fp16", "int8": "int8", "int4": "int4"}
DTYPE = "bfloat16"
"""Of what isn't quantized, and of KV."""


class Absent(Exception):
    """It can't take part; says why."""


class Contender(Protocol):
    def start(self) -> Facts:
        """Bring it up. Raises Absent."""
        ...

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing: ...

    def rest(self, *, resting: bool) -> None:
        """While another one runs."""
        ...

    @property
    def pid(self) -> int: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """What all of them run."""

    model: str
    precision: str
    threads: int

    @property
    def checkpoint(self) -> Path:
        return PEERS / "models" / self.model

    @property
    def gguf(self) -> Path:
        return self.checkpoint / f"{GGUF[self.precision]}.gguf"

    @property
    def openvino(self) -> Path:
        return PEERS / "models" / f"{self.model}-ov-{OPENVINO[self.precision]}"

    @property
    def kelm_home(self) -> Path:
        return PEERS / "kelm-home"

    @property
    def kelm_name(self) -> str:
        """What is not bf16 is what `kelm compress` makes of it."""
        return self.model if self.precision == "bf16" else f"{self.model}:{self.precision}"


def read_facts(line: str) -> Facts:
    """Raises msgspec.ValidationError, or DecodeError."""
    return msgspec.json.decode(line, type=Facts)


def read_timing(line: str) -> Timing:
    return msgspec.json.decode(line, type=Timing)


class Driver:
    """An engine in a process that does nothing else. It is stopped while others run: nobody's threads spin for it."""

    def __init__(self, command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
        self._command = [str(part) for part in command]
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Facts:
        for needed in (self._command[0], self._command[2]):
            if "/" in needed and not Path(needed).exists():
                raise Absent(f"{Path(needed).relative_to(PEERS)} is not there: `make bench` builds it")
        self._process = subprocess.Popen(
            self._command,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "BENCH_QUIET" in os.environ else None,
            text=True,
        )
        try:
            return read_facts(self._line())
        except Absent:
            self.stop()
            raise

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        request = msgspec.json.encode({"prompts": prompts, "tokens": tokens}).decode()
        stdin = self._pipe(self._running.stdin)
        stdin.write(request + "\n")
        stdin.flush()
        return read_timing(self._line())

    def rest(self, *, resting: bool) -> None:
        os.kill(self.pid, signal.SIGSTOP if resting else signal.SIGCONT)

    @property
    def pid(self) -> int:
        return self._running.pid

    def stop(self) -> None:
        """By closing its line; by force where that does not do it."""
        with suppress(ProcessLookupError):
            self.rest(resting=False)
        with suppress(BrokenPipeError):
            self._pipe(self._running.stdin).close()
        try:
            self._running.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._pipe(self._running.stdout).close()

    @property
    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def _line(self) -> str:
        line = self._pipe(self._running.stdout).readline()
        if not line:
            raise Absent(f"{Path(self._command[1]).name} ended with exit code {self._running.wait()}")
        return line

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def kelm_engine(target: Target) -> Contender:
    return _kelm("engine.py", target)


def kelm_executor(target: Target) -> Contender:
    return _kelm("executor.py", target)


def llama(target: Target) -> Contender:
    return _llama(target, {})


def llama_passive(target: Target) -> Contender:
    """Its threads sleep instead of spinning for one another: slower alone, far faster where others want a core too."""
    return _llama(target, {"OMP_WAIT_POLICY": "PASSIVE"})


def openvino(target: Target) -> Contender:
    return Driver([_python("openvino"), DRIVERS / "genai.py", target.openvino, str(target.threads)])


def vllm(target: Target) -> Contender:
    if target.precision != "bf16":
        raise Absent("vLLM runs bf16 here; its CPU build takes none of the other checkpoints")
    return Driver([_python("vllm"), DRIVERS / "vllm_engine.py", target.checkpoint, str(target.threads)])


IN_PROCESS: dict[str, Callable[[Target], Contender]] = {
    "kelm-executor": kelm_executor,
    "kelm": kelm_engine,
    "llama": llama,
    "llama-passive": llama_passive,
    "openvino": openvino,
    "vllm": vllm,
}


def _kelm(driver: str, target: Target) -> Driver:
    command = [sys.executable, DRIVERS / driver, target.kelm_name, DTYPE, str(target.threads)]
    return Driver(command, {"KELM_HOME": str(target.kelm_home)})


def _llama(target: Target, env: dict[str, str]) -> Driver:
    return Driver([_python("llama"), DRIVERS / "llama.py", target.gguf, str(target.threads)], env)


def _python(venv: str) -> Path:
    return PEERS / venv / "bin" / "python"
