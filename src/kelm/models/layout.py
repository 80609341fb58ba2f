"""Where a family's checkpoints keep each tensor, and the shapes a spec asks for.

A *slot* is one tensor of the model, made of one or several tensors of the file: q, k and v are multiplied as one
matrix, so are gate and up.

    "layers.3.qkv.weight"  <-  model.layers.3.self_attn.{q,k,v}_proj.weight     (llama: three parts, [out, in])
    "layers.3.qkv.weight"  <-  h.3.attn.c_attn.weight                           (gpt2: one part, [in, out])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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


def slots(spec: DecoderSpec, layout: Layout, prefix: str) -> dict[str, Slot]:
    """Every tensor of the model."""
    make = _Slots(spec, layout)
    found = {"embed.weight": Slot((f"{prefix}{layout.embed}.weight",), ((spec.vocab, spec.hidden),))}
    if spec.learned_positions:
        found["positions.weight"] = Slot(
            (f"{prefix}{layout.positions}.weight",), ((spec.learned_positions, spec.hidden),)
        )
    for number in range(len(spec.layers)):
        start = prefix + layout.layer.format(number)
        found |= {f"layers.{number}.{name}": slot for name, slot in make.layer(start)}
    found |= dict(make.norm("final_norm", prefix + layout.final_norm, spec.hidden))
    if not spec.tied:
        found["head.weight"] = Slot((f"{layout.head}.weight",), ((spec.vocab, spec.hidden),))
    return found


class _Slots:
    def __init__(self, spec: DecoderSpec, layout: Layout) -> None:
        self._spec, self._layout = spec, layout
        self._offset = 1.0 if spec.norm == "rms_plus_one" else 0.0

    def norm(self, name: str, file_name: str, width: int) -> Iterator[tuple[str, Slot]]:
        yield f"{name}.weight", Slot((f"{file_name}.weight",), ((width,),), offset=self._offset)
        if self._spec.norm == "layer":
            yield f"{name}.bias", Slot((f"{file_name}.bias",), ((width,),), offset=0.0)

    def _linear(
        self, name: str, files: tuple[str, ...], shapes: tuple[tuple[int, int], ...], bias: bool
    ) -> Iterator[tuple[str, Slot]]:
        if len(files) == 1:
            shapes = ((sum(rows for rows, _ in shapes), shapes[0][1]),)
        yield f"{name}.weight", Slot(tuple(f"{f}.weight" for f in files), shapes, self._layout.transposed)
        if bias:
            yield f"{name}.bias", Slot(tuple(f"{f}.bias" for f in files), tuple((rows,) for rows, _ in shapes))

    def layer(self, start: str) -> Iterator[tuple[str, Slot]]:
        spec, layout = self._spec, self._layout
        hidden, inner = spec.hidden, spec.intermediate
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        qkv, up = tuple(start + n for n in layout.qkv), tuple(start + n for n in layout.up)
        yield from self.norm("attention_norm", start + layout.attention_norm, hidden)
        yield from self._linear("qkv", qkv, ((q, hidden), (kv, hidden), (kv, hidden)), spec.qkv_bias)
        yield from self._linear("out", (start + layout.out,), ((hidden, q),), spec.out_bias)
        yield from self.norm("mlp_norm", start + layout.mlp_norm, hidden)
        yield from self._linear("up", up, ((inner, hidden),) * (1 + spec.gated), spec.mlp_bias)
        yield from self._linear("down", (start + layout.down,), ((hidden, inner),), spec.mlp_bias)
        if spec.qk_norm:
            yield from self.norm("q_norm", start + layout.q_norm, spec.head_dim)
            yield from self.norm("k_norm", start + layout.k_norm, spec.head_dim)
        if spec.post_norms:
            yield from self.norm("post_attention_norm", start + layout.post_attention_norm, hidden)
            yield from self.norm("post_mlp_norm", start + layout.post_mlp_norm, hidden)
