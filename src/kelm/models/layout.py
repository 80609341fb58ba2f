"""Where a family's checkpoints keep each tensor, and the shapes a spec asks for.

A *slot* is one tensor of the model, made of one or several tensors of the file: q, k and v are multiplied as one
matrix, so are gate and up.

    "layers.3.qkv.weight"  <-  model.layers.3.self_attn.{q,k,v}_proj.weight     (llama: three parts, [out, in])
    "layers.3.qkv.weight"  <-  h.3.attn.c_attn.weight                           (gpt2: one part, [in, out])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kelm.models.part import Part
    from kelm.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class Slot:
    """``names[i]`` in the file holds ``shapes[i]`` ([out, in] or [n]) of the slot; parts follow along dimension 0."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    transposed: bool = False
    """The file holds [in, out]."""
    offset: float | None = None
    """A norm: kept in float32, with this added."""
    linear: bool = False
    """A matrix that only multiplies: it may lie quantized in the file, and stay so in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Tensor names without ``.weight`` and ``.bias``; those of a layer come after ``prefix + layer``."""

    prefixes: tuple[str, ...]
    """What may stand before every name but ``head``: the first under which ``embed`` is found."""
    embed: str
    layer: str
    """With {} for the layer's number."""
    attention_norm: str
    qkv: tuple[str, ...]
    """Three names, or one that holds all three."""
    out: str
    mlp_norm: str
    up: tuple[str, ...]
    """gate and up, or one name."""
    down: str
    final_norm: str
    head: str = "lm_head"
    positions: str = ""
    q_norm: str = ""
    k_norm: str = ""
    post_attention_norm: str = ""
    post_mlp_norm: str = ""
    transposed: bool = False
    """Linear weights lie as [in, out] (GPT-2's Conv1D)."""
    ignored: tuple[str, ...] = field(default=("rotary_emb.inv_freq",))
    """Ends of tensor names that may be there and hold nothing of the model."""


def slots(spec: DecoderSpec, layout: Layout, prefix: str, part: Part | None = None) -> dict[str, Slot]:
    """Every tensor of the model, or of a part of it."""
    make, part = _Slots(spec, layout), part or spec.whole()
    found: dict[str, Slot] = {}
    if part.first or (part.last and spec.tied):
        found["embed.weight"] = Slot((f"{prefix}{layout.embed}.weight",), ((spec.vocab, spec.hidden),))
    if part.first and spec.learned_positions:
        found["positions.weight"] = Slot(
            (f"{prefix}{layout.positions}.weight",), ((spec.learned_positions, spec.hidden),)
        )
    for number in part.layers:
        start = prefix + layout.layer.format(number)
        found |= {f"layers.{number}.{name}": slot for name, slot in make.layer(start).items()}
    if part.last:
        found |= make.norm("final_norm", prefix + layout.final_norm, spec.hidden)
    if part.last and not spec.tied:
        found["head.weight"] = Slot((f"{layout.head}.weight",), ((spec.vocab, spec.hidden),), linear=True)
    return found


def norm_slots(name: str, file_name: str, width: int, *, bias: bool, offset: float = 0.0) -> dict[str, Slot]:
    """A norm's scale, and its shift if it has one."""
    found = {f"{name}.weight": Slot((f"{file_name}.weight",), ((width,),), offset=offset)}
    if bias:
        found[f"{name}.bias"] = Slot((f"{file_name}.bias",), ((width,),), offset=0.0)
    return found


@dataclass(frozen=True, slots=True)
class Linear:
    """Linears multiplied as one: ``files[i]`` makes ``rows[i]`` outputs; one file may hold them all."""

    files: tuple[str, ...]
    rows: tuple[int, ...]
    columns: int
    bias: bool
    transposed: bool = False

    def slots(self, name: str) -> dict[str, Slot]:
        rows = (sum(self.rows),) if len(self.files) == 1 else self.rows
        shapes = tuple((n, self.columns) for n in rows)
        found = {f"{name}.weight": Slot(tuple(f"{f}.weight" for f in self.files), shapes, self.transposed, linear=True)}
        if self.bias:
            found[f"{name}.bias"] = Slot(tuple(f"{f}.bias" for f in self.files), tuple((n,) for n in rows))
        return found


class _Slots:
    """The slots of one decoder layer after another."""

    def __init__(self, spec: DecoderSpec, layout: Layout) -> None:
        self._spec, self._layout = spec, layout
        self._offset = 1.0 if spec.norm == "rms_plus_one" else 0.0

    def norm(self, name: str, file_name: str, width: int) -> dict[str, Slot]:
        return norm_slots(name, file_name, width, bias=self._spec.norm == "layer", offset=self._offset)

    def layer(self, start: str) -> dict[str, Slot]:
        return self._attention(start) | self._mlp(start)

    def _attention(self, start: str) -> dict[str, Slot]:
        spec, layout, across = self._spec, self._layout, self._layout.transposed
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        names = tuple(start + name for name in layout.qkv)
        found = self.norm("attention_norm", start + layout.attention_norm, spec.hidden)
        found |= Linear(names, (q, kv, kv), spec.hidden, spec.qkv_bias, across).slots("qkv")
        found |= Linear((start + layout.out,), (spec.hidden,), q, spec.out_bias, across).slots("out")
        if spec.qk_norm:
            found |= self.norm("q_norm", start + layout.q_norm, spec.head_dim)
            found |= self.norm("k_norm", start + layout.k_norm, spec.head_dim)
        if spec.post_norms:
            found |= self.norm("post_attention_norm", start + layout.post_attention_norm, spec.hidden)
        return found

    def _mlp(self, start: str) -> dict[str, Slot]:
        spec, layout, across = self._spec, self._layout, self._layout.transposed
        names = tuple(start + name for name in layout.up)
        inner = (spec.intermediate,) * (1 + spec.gated)
        found = self.norm("mlp_norm", start + layout.mlp_norm, spec.hidden)
        found |= Linear(names, inner, spec.hidden, spec.mlp_bias, across).slots("up")
        found |= Linear((start + layout.down,), (spec.hidden,), spec.intermediate, spec.mlp_bias, across).slots("down")
        if spec.post_norms:
            found |= self.norm("post_mlp_norm", start + layout.post_mlp_norm, spec.hidden)
        return found


def aliases(wanted: Mapping[str, Slot], others: Iterable[Mapping[str, Slot]]) -> dict[str, str]:
    """The same slots under other prefixes: name there -> name here."""
    return {
        alias: name
        for other in others
        for slot in wanted
        for alias, name in zip(other[slot].names, wanted[slot].names, strict=True)
    }
