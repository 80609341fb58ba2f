"""``LLM``: one model in this process, for notebooks and scripts.

from kelm import LLM
llm = LLM("org/model")
llm.generate("Once upon a time", SamplingParams(max_tokens=32))[0].text
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from kelm import config
from kelm.errors import ContextTooLong, InvalidRequest, ModelNotFound, UnsupportedModel
from kelm.library.params import Completion, SamplingParams, TokenSpan
from kelm.library.runner import Ask, Runner, Watch
from kelm.store import Manifest, Name, Store, Variant
from kelm.text import chat as chats
from kelm.text.generation import read_defaults
from kelm.text.grammar import FILE as GRAMMAR
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import Dtype, Encode, Load, Loaded
from kelm.worker.engine import Engine
from kelm.worker.executors import Checkpoints
from kelm.worker.settings import EngineSettings

COMPLETION_TOKENS = 16
"""What OpenAI's completions generate when nobody says how many."""

Prompt = str | Sequence[int]
Task = Literal["embed", "classify", "token_classify", "fill_mask"]


class LLM:
    """A model of the store (pulled if it isn't there and looks like ``org/name``), or a variant of one
    (``base@variant``, ``base@variant:version``), resident until ``close`` or
    the end of a ``with``.

    ``settings``: any setting of config.py (dtype, executor, threads, memory, step_tokens, home, ...); what is
    not given comes from the environment and KELM_HOME/config.yaml. Calls from several threads take turns.
    Raises ModelNotFound, ModelFormatError, UnsupportedModel, OutOfMemory, ConfigError.
    """

    def __init__(self, model: str, **settings: Any) -> None:
        chosen = config.load_settings(settings)
        store = Store(chosen.home)
        manifest = _find(store, model)
        files = store.paths(manifest)
        self.name = manifest.name
        self.tokenizer = Tokenizer.load(files)
        self._lock = threading.Lock()
        self._runner = Runner()
        self.settings = EngineSettings(
            memory_bytes=chosen.memory,
            threads=chosen.threads,
            max_num_seqs=chosen.max_num_seqs,
            step_tokens=chosen.step_tokens,
            executor=chosen.executor,
        )
        self._own = _own_defaults(files)
        self._grammar = (Path(files[GRAMMAR]).read_text("utf-8").strip() or None) if GRAMMAR in files else None
        self._base = manifest.base.name if isinstance(manifest, Variant) else None
        self._engine, self.info = self._bring_up(_loads(store, manifest, _dtype(chosen.dtype)), self.settings)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        watch: Watch = lambda step: None,
    ) -> list[Completion]:
        """Continue each prompt (text, or token ids). With n > 1 each prompt's choices follow one another.
        ``watch`` is called after each step with what it did."""
        params = params or SamplingParams()
        several = [prompts] if isinstance(prompts, str) or _is_ids(prompts) else list(prompts)
        asks = [self._ask(self._tokens(prompt), params, COMPLETION_TOKENS) for prompt in several]  # type: ignore[arg-type]
        return self._run(asks, watch)

    def chat(self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None) -> list[Completion]:
        """The assistant's next message, n times, through the checkpoint's chat template, and masked by the grammar
        that the checkpoint carries (grammar.lark, an empty one masks nothing) unless ``params`` has one."""
        prompt = chats.render(self.tokenizer, chats.Chat(messages=list(messages)))
        params = params or SamplingParams()
        if params.grammar is None and self._grammar is not None:
            params = replace(params, grammar=self._grammar)
        return self._run([self._ask(prompt, params, None)])

    def embed(self, texts: str | Sequence[str], *, normalize: bool = True) -> NDArray[np.float32]:
        """[len(texts), hidden]"""
        return np.stack(self._encode("embed", self._each(texts), normalize=normalize))

    def classify(self, texts: str | Sequence[str]) -> list[dict[str, float]]:
        """Each text's labels and their probabilities."""
        results = self._encode("classify", self._each(texts))
        return [dict(zip(self.info.labels, map(float, row), strict=True)) for row in results]

    def tag(self, texts: str | Sequence[str]) -> list[list[TokenSpan]]:
        """Each text's tokens with the most likely label of each (token classification)."""
        inputs = self._each(texts)
        tagged = []
        for ids, rows in zip(inputs, self._encode("token_classify", inputs), strict=True):
            best = rows.argmax(axis=1)
            tagged.append(
                [
                    TokenSpan(self.tokenizer.token_text(token), self.info.labels[label], float(row[label]))
                    for token, label, row in zip(ids, best, rows, strict=True)
                    if token not in self.tokenizer.special_ids
                ]
            )
        return tagged

    def score(self, first: str, second: str | Sequence[str]) -> list[float]:
        """How well each of ``second`` goes with ``first``: a cross-encoder's output, else the cosine of embeddings."""
        others = [second] if isinstance(second, str) else list(second)
        if "classify" in self.info.tasks and len(self.info.labels) == 1:
            pairs = [self.tokenizer.encode_pair(first, other) for other in others]
            results = self._encode("classify", [ids for ids, _ in pairs], [types for _, types in pairs])
            return [float(row[0]) for row in results]
        vectors = self.embed([first, *others])
        return [float(v) for v in vectors[1:] @ vectors[0]]

    def close(self) -> None:
        """Give the model's memory back; the LLM can't be used afterwards."""
        with self._lock:
            self._engine.unload(self._base or self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _bring_up(self, loads: Sequence[Load], settings: EngineSettings) -> tuple[Engine, Loaded]:
        """An engine with the model in it, in this process. ``loads``: of the model, behind that of its base."""
        engine = Engine(settings, Checkpoints(settings), self._runner.report)
        return engine, [engine.load(load) for load in loads][-1]

    def _run(self, asks: list[Ask], watch: Watch = lambda step: None) -> list[Completion]:
        with self._lock:
            results = self._runner.run(self._engine, self.name, self.tokenizer, asks, watch)
        return [completion for choices in results for completion in choices]

    def _ask(self, prompt: list[int], params: SamplingParams, default_tokens: int | None) -> Ask:
        room = self.info.max_context_tokens - len(prompt)
        if room < 0 or (params.max_tokens or 0) > room:
            raise ContextTooLong(
                f"{len(prompt)} prompt tokens and max_tokens {params.max_tokens or 0} do not fit the context of "
                f"{self.info.max_context_tokens}; shorten one of them"
            )
        wanted = params.max_tokens if params.max_tokens is not None else (default_tokens or room)
        return Ask(prompt, params.to_wire(self.tokenizer, self._own, min(wanted, room)), params)

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]

    def _each(self, texts: str | Sequence[str]) -> list[list[int]]:
        several = [texts] if isinstance(texts, str) else list(texts)
        inputs = [self.tokenizer.encode(text) for text in several]
        longest = max(map(len, inputs), default=0)
        if longest > self.info.max_context_tokens:
            raise ContextTooLong(f"a text has {longest} tokens, this model takes {self.info.max_context_tokens}")
        return inputs

    def _encode(
        self, task: Task, inputs: list[list[int]], types: list[list[int]] | None = None, *, normalize: bool = True
    ) -> list[NDArray[np.float32]]:
        if task not in self.info.tasks:
            raise UnsupportedModel(
                f"{self.name} ({self.info.architecture}) can {', '.join(self.info.tasks)}; not {task}"
            )
        if not inputs:
            raise InvalidRequest("at least one text is needed")
        request = Encode(
            pid=self._runner.pid(), model=self.name, task=task, inputs=inputs, types=types or [], normalize=normalize
        )
        with self._lock:
            encoded = self._engine.encode(request)
        return [
            np.frombuffer(data, "<f4").reshape(shape) for data, shape in zip(encoded.data, encoded.shapes, strict=True)
        ]


def _find(store: Store, model: str) -> Manifest:
    try:
        return store.resolve(model)
    except ModelNotFound:
        if "/" not in model or Name.parse(model).variant is not None:
            raise
        return store.pull(model)


def _loads(store: Store, manifest: Manifest, dtype: Dtype) -> list[Load]:
    """What brings it into an engine; a variant's base first: it lies on it."""
    below = _loads(store, manifest.base, dtype) if isinstance(manifest, Variant) else []
    base = below[-1].model if below else None
    files, layers = store.paths(manifest), list(store.layer_paths(manifest))
    load = Load(
        model=manifest.name,
        files=files,
        dtype=dtype,
        images=str(store.home.images),
        digest=manifest.digest,
        base=base,
        layers=layers,
    )
    return [*below, load]


def _own_defaults(files: Mapping[str, str]) -> dict[str, Any]:
    path = files.get("generation_config.json")
    return {} if path is None else read_defaults(Path(path))


def _is_ids(prompts: object) -> bool:
    return isinstance(prompts, Sequence) and bool(prompts) and all(isinstance(token, int) for token in prompts)


def _dtype(name: str) -> Dtype:
    assert name in config.DTYPES
    return name  # type: ignore[return-value]
