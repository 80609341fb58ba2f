"""The decoder: one forward pass, driven by a DecoderSpec, over the rows of many sequences and their paged KV.

The residual stream is float32; linears run in the weights' precision; norms, scores, softmax, gates and logits are
float32. Rows are padded to whole blocks (ops.reference), so what a row gives doesn't depend on the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelm.models.batch import Batch, KVGroup
from kelm.models.info import ModelInfo
from kelm.models.linear import Layer, linear, logits, plain
from kelm.models.part import Part
from kelm.models.spec import DecoderSpec, LayerSpec
from kelm.ops import paged
from kelm.ops import reference as ops
from kelm.ops.norms import rms_norm
from kelm.ops.rope import RopeTable, rotate
from kelm.ops.rotation import Rope

Turns = Mapping[Rope, tuple[Tensor, Tensor]]
"""cos and sin of the rows, for each kind of rotation."""
_Kind = TypeVar("_Kind")


class LoadedDecoder:
    """A decoder with its weights; after ``attach`` it is an Executor (batch.py).

    ``weights``: slot names of layout.py -> tensors; linears may be quantized. With a ``part`` of the layers it is one
    stage of several: ``stream`` takes what the stage before made of a batch, ``logits`` is for the last one.
    """

    name = "torch"

    def __init__(self, spec: DecoderSpec, weights: Layer, info: ModelInfo, part: Part | None = None) -> None:
        self.spec, self.info, self.part = spec, info, part or spec.whole()
        self.groups: tuple[KVGroup, ...] = spec.kv_groups(part)
        self._weights = weights
        self._layers = {n: sub(weights, f"layers.{n}.") for n in self.part.layers}
        self._place = {n: (g, i) for g, group in enumerate(self.groups) for i, n in enumerate(group.layers)}
        self._turns = {layer.rope: RopeTable(layer.rope, spec.head_dim) for layer in spec.layers if layer.rope}
        self._kv: tuple[Tensor, ...] = ()

    @property
    def weights(self) -> Layer:
        """For variants, which share them."""
        return self._weights

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and KV."""
        return self._layers[self.part.layers.start]["qkv.weight"].dtype

    def attach(self, kv: Sequence[Tensor]) -> None:
        """Give each KV group its blocks: [slabs, blocks_per_slab, layers, kv_heads, 2, block_tokens, head_dim]."""
        for group, tensor in zip(self.groups, kv, strict=True):
            got, wanted = tensor.shape, (len(group.layers), group.kv_heads, 2, group.head_dim)
            assert (*got[2:5], got[6]) == wanted, f"KV of shape {tuple(got)} for {group}"
            assert paged.KV_TILE % got[5] == 0, f"block_tokens {got[5]} does not divide {paged.KV_TILE}"
        self._kv = tuple(kv)

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """[R, vocab] logits for ``batch.logit_rows``."""
        if not len(batch.tokens):
            return np.zeros((0, self.spec.vocab), dtype=np.float32)
        return self.logits(self.stream(batch), batch.logit_rows)

    @torch.inference_mode()
    def stream(self, batch: Batch, x: Tensor | None = None) -> Tensor:
        """The residual stream behind the last layer, [T padded, hidden] float32; ``x`` as in ``states``."""
        return deque(self.states(batch, x), maxlen=1).pop()

    @torch.inference_mode()
    def logits(self, x: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(rows), vocab] of these rows of the residual stream behind the model's last layer."""
        if not len(rows):
            return np.zeros((0, self.spec.vocab), dtype=np.float32)
        picked = x[torch.from_numpy(padded(rows))]
        tied = "embed.weight" if self.spec.tied else ""
        made = logits(self._weights, "head", self._norm(self._weights, "final_norm", picked), tied=tied)
        out: NDArray[np.float32] = ops.soft_cap(made[: len(rows)], self.spec.logit_cap).numpy()
        return out

    def fork(self, parent: int, child: int) -> None:
        """Nothing to do: caches are in the arena."""

    def forget(self, seq: int) -> None:
        """Nothing to do: caches are in the arena."""

    def states(self, batch: Batch, x: Tensor | None = None) -> Iterator[Tensor]:
        """The residual stream before the first layer and after each, [T padded, hidden] float32; T is at least 1.

        ``x``: the first of them, as the stage before made it; None where this one has the embedding.
        """
        position = np.zeros(len(batch.tokens), dtype=np.int64)
        for s in batch.spans:
            position[s.start : s.start + s.length] = np.arange(s.context, s.context + s.length)
        positions = torch.from_numpy(padded(position))
        x = self._embed(batch, positions) if x is None else x
        turns = {rope: table.at(positions) for rope, table in self._turns.items()}
        plans = self._plans(batch)
        yield x
        for number, weights in self._layers.items():
            x = x + self._attention(number, self.spec.layers[number], weights, x, turns, plans)
            x = x + self._mlp(weights, x)
            yield x

    def _embed(self, batch: Batch, positions: Tensor) -> Tensor:
        tokens, table = torch.from_numpy(padded(batch.tokens)), plain(self._weights, "embed.weight")
        x = ops.embedding(tokens, table, self.spec.embedding_scale)
        if self.spec.learned_positions:
            x = x + ops.embedding(positions, plain(self._weights, "positions.weight"))
        return x

    def _plans(self, batch: Batch) -> list[paged.Plan]:
        plans = []
        for g, group in enumerate(self.groups):
            spans = [paged.Rows(s.start, s.length, s.context, s.tables[g]) for s in batch.spans]
            plans.append(paged.plan(spans, self._kv[g].shape, paged.Sight(window=group.window)))
        return plans

    def _attention(
        self, number: int, layer: LayerSpec, w: Layer, x: Tensor, turns: Turns, plans: Sequence[paged.Plan]
    ) -> Tensor:
        spec = self.spec
        rows, (group, index) = x.shape[0], self._place[number]
        kv_width = spec.kv_heads * spec.head_dim
        qkv = linear(w, "qkv", self._norm(w, "attention_norm", x))
        q, k, v = torch.split(qkv, [spec.heads * spec.head_dim, kv_width, kv_width], dim=1)
        q, k, v = (part.reshape(rows, -1, spec.head_dim) for part in (q, k, v))
        if spec.qk_norm:
            q, k = self._norm(w, "q_norm", q), self._norm(w, "k_norm", k)
        if layer.rope is not None:
            q, k = rotate(q, *turns[layer.rope]), rotate(k, *turns[layer.rope])
        step = plans[group]
        paged.write_kv(self._kv[group], index, step, k[: step.rows], v[: step.rows])
        scores = paged.Scores(layer.score_scale, spec.score_cap)
        seen = paged.paged_attention(q, self._kv[group], index, step, scores).flatten(1)
        return self._post(w, "post_attention_norm", linear(w, "out", seen))

    def _mlp(self, w: Layer, x: Tensor) -> Tensor:
        up = linear(w, "up", self._norm(w, "mlp_norm", x))
        inner = (ops.gate if self.spec.gated else ops.activate)(up, self.spec.activation)
        return self._post(w, "post_mlp_norm", linear(w, "down", inner))

    def _post(self, w: Layer, name: str, x: Tensor) -> Tensor:
        return self._norm(w, name, x) if self.spec.post_norms else x

    def _norm(self, w: Layer, name: str, x: Tensor) -> Tensor:
        weight, eps = plain(w, f"{name}.weight"), self.spec.norm_eps
        if self.spec.norm == "layer":
            return ops.layer_norm(x, weight, plain(w, f"{name}.bias"), eps)
        return rms_norm(x, weight, eps)


def sub(weights: Mapping[str, _Kind], prefix: str) -> Mapping[str, _Kind]:
    """The weights whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def padded(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Zeros behind, up to whole row blocks: padding rows are token 0 at position 0 and nobody reads them."""
    return np.pad(values, (0, ops.padded_rows(len(values)) - len(values)))
