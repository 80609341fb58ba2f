"""The encoder: one forward pass, driven by an EncoderSpec, over texts of any lengths; and its heads.

Arithmetic as in decoder.py. Attention is the decoders' paged attention, over blocks made for the pass: each text has
blocks of its own, and every row sees its whole text. So a result doesn't depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelm.errors import InvalidRequest
from kelm.models.decoder import padded, sub
from kelm.models.encoder_spec import EncoderSpec
from kelm.models.heads import Heads
from kelm.models.info import ModelInfo
from kelm.models.linear import linear
from kelm.ops import paged
from kelm.ops import reference as ops
from kelm.wire.messages import Encode

_ROWS_AT_ONCE = 4096  # bounds the memory of one pass, whatever the request's size


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of one pass, one after the other: rows ``start[i]`` to ``start[i] + length[i]`` are text i's."""

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    start: tuple[int, ...]
    length: tuple[int, ...]


class LoadedEncoder:
    """An encoder with its weights (slot names of encoder_layout.py -> tensors). ``mask_id``: of a masked LM."""

    name = "torch"

    def __init__(
        self, spec: EncoderSpec, weights: Mapping[str, Tensor], info: ModelInfo, mask_id: int | None = None
    ) -> None:
        self.spec, self.info = spec, info
        self.tasks, self.labels = info.tasks, info.labels
        self._weights = weights
        self._layers = [sub(weights, f"layers.{n}.") for n in range(spec.layers)]
        self._heads = Heads(spec, weights, mask_id)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """For variants, which share them."""
        return self._weights

    @property
    def dtype(self) -> torch.dtype:
        """Of its linears."""
        return self._weights["words.weight"].dtype

    @torch.inference_mode()
    def run(self, request: Encode) -> list[NDArray[np.float32]]:
        """One array for each input: embed [hidden], classify [labels], token_classify [tokens, labels] (probabilities),
        fill_mask [masks, vocab] (log-probabilities).

        Raises InvalidRequest: a task this model doesn't have; an input that is empty, too long, or has foreign tokens.
        """
        if request.task not in self.tasks:
            raise InvalidRequest(f"task {request.task} is not one of this model's: {', '.join(self.tasks)}")
        types = self._types(request)
        for number, ids in enumerate(request.inputs):
            self._check(number, ids, types[number])
        results = []
        for part in _parts([len(ids) for ids in request.inputs]):
            texts = _texts(request.inputs[part], types[part])
            results += self._heads.run(request, texts.ids, self._hidden(texts), texts.start, texts.length)
        return results

    def _types(self, request: Encode) -> Sequence[Sequence[int]]:
        """Types for each input: zeros where the request has none, or the model has no table for them."""
        if not request.types or not self.spec.token_types:
            return [[0] * len(ids) for ids in request.inputs]
        if len(request.types) != len(request.inputs):
            raise InvalidRequest(f"types: {len(request.types)} lists for {len(request.inputs)} inputs")
        return request.types

    def _check(self, number: int, ids: Sequence[int], types: Sequence[int]) -> None:
        most, where = self.info.max_context_tokens, f"input {number}"
        if not 1 <= len(ids) <= most:
            raise InvalidRequest(f"{where} has {len(ids)} tokens; this model takes 1 to {most}")
        if min(ids) < 0 or max(ids) >= self.spec.vocab:
            raise InvalidRequest(f"{where} has a token outside the model's vocabulary of {self.spec.vocab}")
        if len(types) != len(ids) or min(types) < 0 or max(types) >= max(1, self.spec.token_types):
            raise InvalidRequest(f"{where} needs a type from 0 to {self.spec.token_types - 1} for each of its tokens")

    def _hidden(self, texts: Texts) -> Tensor:
        """The last layer's states, [rows padded, hidden] float32."""
        spec, w = self.spec, self._weights
        x = ops.embedding(torch.from_numpy(padded(texts.ids)), w["words.weight"])
        if spec.token_types:
            x = x + ops.embedding(torch.from_numpy(padded(texts.types)), w["types.weight"])
        x = x + ops.embedding(torch.from_numpy(padded(self._positions(texts))), w["positions.weight"])
        x = self._norm(w, "norm", x)
        kv, plan = self._blocks(texts)
        for layer in self._layers:
            x = self._norm(layer, "attention_norm", x + self._attention(layer, x, kv, plan))
            x = self._norm(layer, "mlp_norm", x + self._mlp(layer, x))
        return x

    def _positions(self, texts: Texts) -> NDArray[np.int64]:
        out = np.zeros(len(texts.ids), dtype=np.int64)
        padding = self.spec.position_padding
        for start, length in zip(texts.start, texts.length, strict=True):
            part = slice(start, start + length)
            if padding is None:
                out[part] = np.arange(length)
            else:
                real = texts.ids[part] != padding
                out[part] = np.where(real, np.cumsum(real), 0) + padding
        return out

    def _blocks(self, texts: Texts) -> tuple[Tensor, paged.Plan]:
        """KV for one layer at a time, a block a tile, and the plan over it."""
        spans, used = [], 0
        for start, length in zip(texts.start, texts.length, strict=True):
            count = -(-length // paged.KV_TILE)
            spans.append(paged.Rows(start, length, 0, np.arange(used, used + count, dtype=np.int32)))
            used += count
        shape = (1, used, 1, self.spec.heads, 2, paged.KV_TILE, self.spec.head_dim)
        return torch.empty(shape), paged.plan(spans, shape, paged.Sight(causal=False))

    def _attention(self, w: Mapping[str, Tensor], x: Tensor, kv: Tensor, plan: paged.Plan) -> Tensor:
        spec = self.spec
        qkv = linear(w, "qkv", x).view(x.shape[0], 3, spec.heads, spec.head_dim)
        q, k, v = qkv.unbind(1)
        paged.write_kv(kv, 0, plan, k[: plan.rows], v[: plan.rows])
        seen = paged.paged_attention(q, kv, 0, plan, paged.Scores(spec.head_dim**-0.5))
        return linear(w, "out", seen.flatten(1))

    def _mlp(self, w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        inner = ops.activate(linear(w, "up", x), self.spec.activation)
        return linear(w, "down", inner)

    def _norm(self, w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        return ops.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], self.spec.norm_eps)


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Cuts a batch so that a part has at most _ROWS_AT_ONCE rows, or one text."""
    first, rows = 0, 0
    for number, length in enumerate(lengths):
        if number > first and rows + length > _ROWS_AT_ONCE:
            yield slice(first, number)
            first, rows = number, 0
        rows += length
    if first < len(lengths):
        yield slice(first, len(lengths))


def _texts(inputs: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Texts:
    lengths = tuple(len(ids) for ids in inputs)
    starts = tuple(int(n) for n in np.cumsum((0, *lengths))[:-1])
    ids = np.array([i for ids in inputs for i in ids], dtype=np.int64)
    return Texts(ids, np.array([t for one in types for t in one], dtype=np.int64), starts, lengths)
