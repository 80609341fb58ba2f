"""A small kernel behind the real doors: everything but the worker. What it generates is a function of the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from kelm.clock import ManualClock
from kelm.config import Settings, load_settings
from kelm.errors import KelmError, ModelNotFound, NotFound, Unavailable
from kelm.kernel.requests import Chunk, Encoding, Generation, Origin, Usage
from kelm.serve.app import create_app
from kelm.serve.server import bind, serve
from kelm.store.manifest import Manifest
from kelm.testing import tokenizers
from kelm.text import chat
from kelm.text.grammar import GrammarCompiler
from kelm.text.stream import TextStream
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import Loaded, TokenLogprobs

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 256


@dataclass
class ToyModel:
    name: str
    tokenizer: Tokenizer
    info: Loaded
    files: dict[str, str]
    created: float = 1_700_000_000.0


def toy_model(folder: Path, name: str = "toy:latest", **info: Any) -> ToyModel:
    files = tokenizers.write(folder, config={"chat_template": CHATML})
    tokenizer = Tokenizer.load(files)
    loaded = {
        "model": name, "executor": "toy", "kind": "decoder", "architecture": "toy", "dtype": "float32",
        "parameters": 0, "weight_bytes": 0, "max_context_tokens": CONTEXT, "vocab": tokenizer.vocab_size,
        "hidden": 16, "tasks": ["generate"], **info,
    }  # fmt: skip
    return ToyModel(name, tokenizer, Loaded(**loaded), files)


class ToyProcess:
    """Says its prompt backwards, again and again, one token for each turn of the loop."""

    def __init__(self, pid: int, model: ToyModel, request: Generation, hold: asyncio.Event) -> None:
        self.pid = pid
        self.request = request
        self.usage = Usage(len(request.prompt), 0, 1)
        self.cancelled = False
        self.failure: KelmError | None = None
        self._model = model
        self._hold = hold
        self._chunks = self._run()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks

    def cancel(self) -> None:
        self.cancelled = True

    async def _run(self) -> AsyncIterator[Chunk]:
        request, sampling = self.request, self.request.sampling
        streams = [self._stream() for _ in range(request.n)]
        scores = self._scores(sampling.prompt_logprobs)
        for step in range(max(1, sampling.max_tokens)):
            await self._hold.wait()
            await asyncio.sleep(0)
            if self.failure is not None:
                raise self.failure
            for choice, stream in enumerate(streams):
                if stream.stop is not None:
                    continue
                token = request.prompt[-1 - (step + choice) % len(request.prompt)]
                ids = [token] if sampling.max_tokens else []
                logprobs = [self._logprob(token, sampling.logprobs)] if ids and sampling.logprobs is not None else None
                released = stream.push(ids, logprobs)
                self.usage.completion_tokens += len(ids)
                last = step + 1 >= sampling.max_tokens
                parts = [released, stream.flush()] if last else [released]
                yield Chunk(
                    choice=choice,
                    text="".join(part.text for part in parts),
                    ids=[token for part in parts for token in part.ids],
                    logprobs=[entry for part in parts for entry in part.logprobs],
                    offsets=[offset for part in parts for offset in part.offsets],
                    finish="stop" if stream.stop else "length" if last else None,
                    stop=stream.stop,
                    prompt_logprobs=scores,
                )
                scores = None

    def _stream(self) -> TextStream:
        request = self.request
        return TextStream(
            self._model.tokenizer,
            request.stop,
            include_stop=request.include_stop,
            skip_special_tokens=request.skip_special_tokens,
        )

    def _scores(self, top: int | None) -> list[TokenLogprobs | None] | None:
        return None if top is None else [None, *(self._logprob(token, top) for token in self.request.prompt[1:])]

    @staticmethod
    def _logprob(token: int, top: int) -> TokenLogprobs:
        return TokenLogprobs(token, -0.5, 1, [(token, -0.5), *((token + k, -1.0 - k) for k in range(1, top))][:top])


class ToyHelper:
    async def render_chat(self, files: dict[str, str], conversation: chat.Chat) -> list[int]:
        return chat.render(Tokenizer.load(files), conversation)

    async def compile_grammar(self, files: dict[str, str], grammar: str) -> None:
        GrammarCompiler.for_tokenizer(files).check(grammar)


class ToyMetrics:
    content_type = "text/plain; version=0.0.4"

    def render(self) -> bytes:
        return b"kelm_toy 1\n"


@dataclass
class ToyArrival(nullcontext[None]):
    pid: int
    model: ToyModel

    def __enter__(self) -> ToyArrival:  # type: ignore[override]
        return self


@dataclass
class ToyKernel:
    models: dict[str, ToyModel]
    ready: bool = True
    fingerprint: str | None = "toy-1"
    helper: ToyHelper = field(default_factory=ToyHelper)
    metrics: ToyMetrics = field(default_factory=ToyMetrics)
    submitted: list[Generation] = field(default_factory=list)
    encoded: list[Encoding] = field(default_factory=list)
    entered: list[Origin] = field(default_factory=list)
    keys: None = None
    token: None = None
    started: list[ToyProcess] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: every process waits."""
    refuse: KelmError | None = None
    shutdown_requested: asyncio.Event = field(default_factory=asyncio.Event)
    drained_s: float | None = None

    def __post_init__(self) -> None:
        self.go.set()

    async def start(self) -> None: ...

    async def drain(self, seconds: float) -> None:
        self.drained_s = seconds

    async def resolve(self, name: str) -> ToyModel:
        if self.shutdown_requested.is_set():
            raise Unavailable("the daemon is shutting down; try again later", retry_after_s=1.5)
        for model in self.models.values():
            if name in (model.name, model.name.removesuffix(":latest")):
                return model
        raise ModelNotFound(f"there is no model {name:.80}", param="model")

    async def enter(self, origin: Origin) -> ToyArrival:
        self.entered.append(origin)
        return ToyArrival(len(self.entered), await self.resolve(origin.model))

    def submit(self, request: Generation) -> ToyProcess:
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append(request)
        model = next(m for m in self.models.values() if m.name.startswith(request.model))
        self.started.append(ToyProcess(len(self.submitted), model, request, self.go))
        return self.started[-1]

    async def encode(self, request: Encoding) -> list[np.ndarray]:
        self.encoded.append(request)
        await self.go.wait()
        model = next(m for m in self.models.values() if m.name.startswith(request.model))
        return [self._vector(model, request.task, ids) for ids in request.inputs]

    @staticmethod
    def _vector(model: ToyModel, task: str, ids: Sequence[int]) -> np.ndarray:
        labels = len(model.info.labels)
        if task == "token_classify":
            rows = np.array([[(token * (label + 3)) % 7 + 1 for label in range(labels)] for token in ids], np.float32)
            return rows / rows.sum(axis=1, keepdims=True)
        size = labels if task == "classify" else model.info.hidden
        vector = np.array(
            [sum((token + 1) * (place + i + 1) % 11 for i, token in enumerate(ids)) for place in range(size)]
        )
        vector = vector.astype(np.float32) + 1
        if task == "classify":
            return vector / (vector.sum() + 1)
        return vector / np.linalg.norm(vector)

    async def unload(self, name: str) -> list[str]:
        model = await self.resolve(name)
        self.models = {key: each for key, each in self.models.items() if each is not model}
        return [model.name]

    def processes(self) -> list[dict[str, Any]]:
        return [{"pid": process.pid, "model": process.request.model} for process in self.started]

    def resident(self) -> list[dict[str, Any]]:
        return [{"name": model.name, "state": "resident", "tasks": model.info.tasks} for model in self.models.values()]

    def worker(self) -> dict[str, Any]:
        return {"pid": 1, "state": "up"}

    def tenants(self) -> list[dict[str, Any]]:
        return [{"tenant": origin.tenant} for origin in self.entered]

    def nice(self, pid: int, priority: int) -> dict[str, Any]:
        return {"pid": self._process(pid), "priority": priority}

    def why(self, pid: int) -> dict[str, Any]:
        return {"pid": self._process(pid), "text": "because"}

    def _process(self, pid: int) -> int:
        if pid not in [process.pid for process in self.started]:
            raise NotFound(f"no process {pid} is running")
        return pid

    def request_shutdown(self) -> None:
        self.shutdown_requested.set()


@dataclass
class ToyStore:
    kernel: ToyKernel

    def list(self) -> list[Manifest]:
        return [self._manifest(model.name) for model in self.kernel.models.values()]

    def resolve(self, name: str) -> Manifest:
        for model in self.kernel.models.values():
            if name in (model.name, model.name.removesuffix(":latest")):
                return self._manifest(model.name)
        raise ModelNotFound(f"there is no model {name:.80}", param="model")

    @staticmethod
    def _manifest(name: str) -> Manifest:
        return Manifest(name=name, digest="sha256:" + "0" * 64, files={}, created=1_700_000_000.5, source="test")


def settings(home: Path, **flags: Any) -> Settings:
    return load_settings({"home": str(home), **flags}, {})


def toy_app(home: Path, kernel: ToyKernel, **flags: Any) -> FastAPI:
    return create_app(kernel, ToyStore(kernel), settings(home, **flags), ManualClock(1_800_000_000.0))


def client_of(app: FastAPI, **more: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8420", **more)


@asynccontextmanager
async def toy_server(home: Path, kernel: ToyKernel, **flags: Any) -> AsyncIterator[int]:
    """The real server around the small kernel, on this loop; its port."""
    known = settings(home, port=0, **flags)
    listener = bind(known)
    serving = asyncio.create_task(serve(kernel, ToyStore(kernel), known, listener))  # type: ignore[arg-type]
    try:
        yield listener.getsockname()[1]
    finally:
        kernel.request_shutdown()
        await serving


async def exchange(port: int, data: bytes, *, host: str = "127.0.0.1") -> bytes:
    """Send ``data`` on a socket of its own, and read until the server closes it or says nothing more."""
    reader, writer = await asyncio.open_connection(host, port)
    received = b""
    with suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    with suppress(ConnectionError, TimeoutError):
        while chunk := await asyncio.wait_for(reader.read(1 << 16), 0.5):
            received += chunk
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return received


def request_bytes(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """One HTTP/1.1 request. Headers override ours; one that is empty is left out."""
    ours = {"host": "127.0.0.1", "content-length": str(len(body)), "connection": "close"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**ours, **given}.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
