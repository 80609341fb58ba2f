"""The fallback executor: any text model that `transformers` can build, one sequence at a time, behind the same
process and doors as a native family.

It keeps a cache of its own for each sequence (no KV groups). Bits do not depend on company because nothing is
batched, and not on chunking because the shapes of the calls are fixed by the sequence alone: the prompt in one
call, then one token a call. Rows whose logits nobody wants wait until a wanted one forces them.

No code is ever imported from a model's folder: ``auto_map`` is dropped and remote code is off.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kelm.errors import InvalidRequest
from kelm.models.batch import Batch, KVGroup, Span
from kelm.models.hf_folder import build_model
from kelm.models.info import ModelInfo


@dataclass(slots=True)
class _State:
    """What is computed of one sequence, and what waits to be."""

    cache: Any = None
    encoded: Any = None
    """Encoder output of an encoder-decoder."""
    prompt: int = 0
    done: int = 0
    """Positions inside the cache."""
    waiting: list[int] = field(default_factory=list)


class FallbackDecoder:
    """Implements models.batch.Executor over a `transformers` model."""

    name = "fallback"
    groups: tuple[KVGroup, ...] = ()

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self._states: dict[int, _State] = {}
        # transformers renamed it family by family; it is an argument and a field of the output.
        self._cache_name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self.vocab = int(model.config.get_text_config(decoder=True).vocab_size)

    @property
    def decoder_start(self) -> int | None:
        """The token an encoder-decoder's answer starts from; None for a plain decoder."""
        if not self.is_encoder_decoder:
            return None
        generation, config = self._model.generation_config, self._model.config
        for value in (generation.decoder_start_token_id, getattr(config, "decoder_start_token_id", None)):
            if value is not None:
                return int(value[0] if isinstance(value, list) else value)
        return int(config.pad_token_id or 0)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """[R, vocab] logits of ``batch.logit_rows``, float32."""
        out = np.empty((len(batch.logit_rows), self.vocab), np.float32)
        for span in batch.spans:
            wanted = np.nonzero((batch.logit_rows >= span.start) & (batch.logit_rows < span.start + span.length))[0]
            state = self._state(span, batch)
            state.waiting.extend(int(t) for t in batch.tokens[span.start : span.start + span.length])
            if len(wanted):
                rows = batch.logit_rows[wanted] - span.start + span.context
                out[wanted] = self._run(state, rows)
        return out

    def fork(self, parent: int, child: int) -> None:
        """The child starts from a copy of the parent's cache; the encoder's output is shared, nothing writes it."""
        state = self._states[parent]
        self._states[child] = _State(
            copy.deepcopy(state.cache), state.encoded, state.prompt, state.done, list(state.waiting)
        )

    def forget(self, seq: int) -> None:
        self._states.pop(seq, None)

    def _state(self, span: Span, batch: Batch) -> _State:
        state = self._states.get(span.seq)
        if state is None or state.done + len(state.waiting) != span.context:
            state = self._states[span.seq] = _State(prompt=span.prompt)
            if self.is_encoder_decoder:
                state.encoded = self._encode(batch.prompts[span.seq])
        return state

    def _encode(self, prompt: NDArray[np.int64]) -> Any:
        return self._model.get_encoder()(input_ids=torch.from_numpy(prompt[None].astype(np.int64)))

    def _run(self, state: _State, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute everything that waits; the logits at absolute positions ``rows`` (ascending)."""
        first, kept = state.done, []
        for piece in self._pieces(state):
            kept.append(self._call(state, piece))
        logits = torch.cat(kept)
        return logits[torch.from_numpy(rows - first)].float().numpy()

    def _pieces(self, state: _State) -> list[list[int]]:
        """The prompt's part in one piece, then single tokens: as they came the first time, so that a replay after
        a restart takes the same calls."""
        tokens, state.waiting = state.waiting, []
        head = max(0, state.prompt - state.done)
        pieces = [tokens[:head]] if tokens[:head] else []
        return pieces + [[token] for token in tokens[head:]]

    def _call(self, state: _State, tokens: list[int]) -> torch.Tensor:
        """[len(tokens), vocab]; extends the cache."""
        ids, cache = torch.tensor([tokens]), {self._cache_name: state.cache, "use_cache": True}
        if self.is_encoder_decoder:
            out = self._model(encoder_outputs=state.encoded, decoder_input_ids=ids, **cache)
        else:
            out = self._model(input_ids=ids, **cache)
        state.cache = getattr(out, self._cache_name)
        if state.cache is None:
            raise InvalidRequest("this architecture keeps no cache that Kelm can use, so it cannot generate")
        state.done += len(tokens)
        logits: torch.Tensor = out.logits[0]
        return logits


def load_fallback(files: Mapping[str, str], dtype: str) -> tuple[FallbackDecoder, ModelInfo]:
    """Build a decoder or encoder-decoder. Raises UnsupportedModel, ModelFormatError."""
    model = build_model(files, dtype)
    decoder = FallbackDecoder(model)
    config = model.config.get_text_config(decoder=True)
    return decoder, ModelInfo(
        kind="encoder-decoder" if decoder.is_encoder_decoder else "decoder",
        architecture=str(model.config.model_type),
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in model.parameters()),
        weight_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        max_context_tokens=_context(config),
        vocab=decoder.vocab,
        hidden=int(config.hidden_size),
        tasks=("generate",),
    )


def _context(config: Any) -> int:
    """Longest sequence the checkpoint was made for; the names differ between families."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2048
