"""A decoder as a list of ops, plain: what decoder.py does, one op after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kelm.models.graph.ops import LOGITS, Buffer, Graph, Kind, Op
from kelm.models.spec import DecoderSpec, LayerSpec
from kelm.ops.rotation import Rope, attention_factor, frequencies

HEAD_TILE = 16
"""Attention's heads are whole runs of so many dimensions (csrc/attention.hpp)."""

Constants = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class LowRank:
    """What a variant adds to the product of a slot, from output ``column`` on: vectors ``{slot}.low_rank_a.{number}``
    [rank, inputs] and ``{slot}.low_rank_b.{number}`` [rank, width]."""

    number: int
    rank: int
    inputs: int
    column: int
    width: int


Additions = Mapping[str, Sequence[LowRank]]
"""By linear: ``layers.0.qkv``."""


def build(
    spec: DecoderSpec, embedding_scale: float | None = None, additions: Additions | None = None
) -> tuple[Graph, Constants]:
    """And the vectors that no checkpoint holds. ``embedding_scale``: as the table's precision has it."""
    builder = _Builder(spec, additions or {})
    builder.run(spec.embedding_scale if embedding_scale is None else embedding_scale)
    return Graph(tuple(builder.ops), builder.buffers), builder.constants


def whole_head(head_dim: int) -> int:
    """With zeros behind, up to whole tiles."""
    return -(-head_dim // HEAD_TILE) * HEAD_TILE


@dataclass(slots=True)
class _Builder:
    spec: DecoderSpec
    additions: Additions
    ops: list[Op] = field(default_factory=list)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)

    def run(self, embedding_scale: float) -> None:
        spec = self.spec
        positions = "positions.weight" if spec.learned_positions else ""
        x = self._buffer("x", spec.hidden)
        self._add(Op(Kind.EMBED, out=x, width=spec.hidden, matrix="embed.weight", vector=positions, a=embedding_scale))
        place = {n: (g, i) for g, group in enumerate(spec.kv_groups()) for i, n in enumerate(group.layers)}
        for number, layer in enumerate(spec.layers):
            self._attention(number, layer, *place[number])
            self._mlp(number)
        self._head()

    def _attention(self, number: int, layer: LayerSpec, group: int, index: int) -> None:
        spec, at = self.spec, f"layers.{number}"
        q, kv, dim, whole = spec.heads, spec.kv_heads, spec.head_dim, whole_head(spec.head_dim)
        normed = self._norm(f"{at}.attention_norm", "x", f"normed.{number}")
        qkv = self._linear(f"{at}.qkv", normed, self._buffer(f"qkv.{number}", (q + 2 * kv) * dim), spec.qkv_bias)
        if spec.qk_norm:
            self._head_norm(f"{at}.q_norm", qkv, 0, q)
            self._head_norm(f"{at}.k_norm", qkv, q * dim, kv)
        if layer.rope is not None:
            self._add(Op(Kind.ROTATE, x=self._angles(layer.rope), out=qkv, count=q + kv, width=dim))
        if whole != dim:
            wide = self._buffer(f"wide.{number}", (q + 2 * kv) * whole)
            self._add(Op(Kind.SPREAD, x=qkv, out=wide, count=q + 2 * kv, width=dim, step=whole))
            qkv = wide
        self._add(
            Op(Kind.WRITE_KV, x=qkv, out=qkv, x_column=q * whole, count=kv, width=whole, group=group, layer=index)
        )
        seen = self._buffer(f"seen.{number}", q * whole)
        self._add(
            Op(
                Kind.ATTENTION,
                x=qkv,
                out=seen,
                count=q,
                width=whole,
                group=group,
                layer=index,
                window=layer.window or 0,
                a=layer.score_scale,
                b=spec.score_cap or 0.0,
            )
        )
        if whole != dim:
            close = self._buffer(f"close.{number}", q * dim)
            self._add(Op(Kind.GATHER_HEADS, x=seen, out=close, count=q, width=dim, step=whole))
            seen = close
        out = self._linear(f"{at}.out", seen, self._buffer(f"out.{number}", spec.hidden), spec.out_bias)
        self._residual(f"{at}.post_attention_norm", out)

    def _mlp(self, number: int) -> None:
        spec, at = self.spec, f"layers.{number}"
        inner = spec.intermediate
        normed = self._norm(f"{at}.mlp_norm", "x", f"mlp_normed.{number}")
        width = 2 * whole_head(inner) if spec.gated else inner
        up = self._linear(f"{at}.up", normed, self._buffer(f"up.{number}", width), spec.mlp_bias)
        gated = self._buffer(f"inner.{number}", inner)
        kind = Kind.GATE if spec.gated else Kind.ACTIVATE
        self._add(Op(kind, x=up, out=gated, width=inner, activation=spec.activation))
        down = self._linear(f"{at}.down", gated, self._buffer(f"down.{number}", spec.hidden), spec.mlp_bias)
        self._residual(f"{at}.post_mlp_norm", down)

    def _head(self) -> None:
        spec = self.spec
        picked = self._buffer("picked", spec.hidden, picked=True)
        self._add(Op(Kind.PICK, x="x", out=picked, width=spec.hidden))
        normed = self._norm("final_norm", picked, "final", picked=True)
        logits = self._buffer(LOGITS, spec.vocab, picked=True)
        self._linear("embed" if spec.tied else "head", normed, logits, False)
        if spec.logit_cap is not None:
            self._add(Op(Kind.SOFT_CAP, out=logits, width=spec.vocab, a=spec.logit_cap))

    def _residual(self, norm: str, made: str) -> None:
        if self.spec.post_norms:
            made = self._norm(norm, made, f"{made}.normed")
        self._add(Op(Kind.ADD, x=made, out="x", width=self.spec.hidden))

    def _norm(self, slot: str, x: str, out: str, picked: bool = False) -> str:
        spec = self.spec
        self._buffer(out, spec.hidden, picked=picked)
        layer = spec.norm == "layer"
        kind, bias = (Kind.LAYER_NORM, f"{slot}.bias") if layer else (Kind.RMS_NORM, "")
        self._add(Op(kind, x=x, out=out, width=spec.hidden, vector=f"{slot}.weight", other=bias, a=spec.norm_eps))
        return out

    def _head_norm(self, slot: str, qkv: str, column: int, heads: int) -> None:
        spec = self.spec
        self._add(
            Op(
                Kind.RMS_NORM,
                x=qkv,
                out=qkv,
                x_column=column,
                out_column=column,
                count=heads,
                width=spec.head_dim,
                vector=f"{slot}.weight",
                a=spec.norm_eps,
            )
        )

    def _linear(self, slot: str, x: str, out: str, bias: bool) -> str:
        self._add(Op(Kind.LINEAR, x=x, out=out, matrix=f"{slot}.weight", vector=f"{slot}.bias" if bias else ""))
        for part in self.additions.get(slot, ()):
            a, b = f"{slot}.low_rank_a.{part.number}", f"{slot}.low_rank_b.{part.number}"
            self._add(
                Op(
                    Kind.LOW_RANK,
                    x=x,
                    out=out,
                    out_column=part.column,
                    count=part.rank,
                    width=part.width,
                    step=part.inputs,
                    vector=a,
                    other=b,
                )
            )
        return out

    def _angles(self, rope: Rope) -> str:
        """Of the rows' positions, made once for all layers that turn by them."""
        ropes = list(dict.fromkeys(layer.rope for layer in self.spec.layers if layer.rope is not None))
        name, dim = f"angles.{ropes.index(rope)}", self.spec.head_dim
        if name not in self.buffers:
            self.constants[name] = frequencies(rope, dim)
            self._buffer(name, dim)
            self._add(Op(Kind.ANGLES, out=name, width=dim // 2, vector=name, a=attention_factor(rope)))
        return name

    def _buffer(self, name: str, width: int, *, picked: bool = False) -> str:
        self.buffers[name] = Buffer(width, picked)
        return name

    def _add(self, op: Op) -> None:
        self.ops.append(op)
