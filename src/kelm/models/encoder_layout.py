"""Where encoder checkpoints keep each tensor, and the shapes a spec asks for (layout.py for decoders)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kelm.models.encoder_spec import EncoderSpec, Head
from kelm.models.layout import Linear, Slot, norm_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLayout:
    """Names of a head's tensors, in full but for a leading ``*``, which stands for the encoder's prefix."""

    last: str
    dense: str = ""
    norm: str = ""
    tied_bias: str = ""
    """Of a masked LM: the name (with its end) of the bias when the last matrix is the embedding."""
    ignored: tuple[str, ...] = ()
    """Ends of names that this head's checkpoints may have besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLayout:
    """Tensor names without ``.weight`` and ``.bias``; those of a layer come after ``prefix + layer``."""

    prefix: str
    """Stands before the encoder's names, or nothing does (a checkpoint of the bare encoder)."""
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    layer: str = "encoder.layer.{}."
    qkv: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"
    heads: Mapping[Head, HeadLayout] = field(default_factory=dict)
    ignored: tuple[str, ...] = ("position_ids", "pooler.dense.weight", "pooler.dense.bias")
    renamed: tuple[tuple[str, str], ...] = (
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
    )
    """Ends of names as TensorFlow's checkpoints had them -> as they are here."""

    def unused(self, spec: EncoderSpec) -> tuple[str, ...]:
        """Ends of tensor names that may be in the files and hold nothing of the model."""
        if spec.head == "none":  # a checkpoint with some head may be read as the bare encoder
            return self.ignored
        head = self.heads[spec.head]
        return self.ignored + head.ignored + ((f"{head.last}.weight",) if spec.tied else ())


def encoder_slots(spec: EncoderSpec, layout: EncoderLayout, prefix: str) -> dict[str, Slot]:
    """Every tensor of the model."""
    hidden = spec.hidden
    found = {"words.weight": Slot((f"{prefix}{layout.words}.weight",), ((spec.vocab, hidden),))}
    found["positions.weight"] = Slot((f"{prefix}{layout.positions}.weight",), ((spec.positions, hidden),))
    if spec.token_types:
        found["types.weight"] = Slot((f"{prefix}{layout.types}.weight",), ((spec.token_types, hidden),))
    found |= norm_slots("norm", prefix + layout.norm, hidden, bias=True)
    for number in range(spec.layers):
        start = prefix + layout.layer.format(number)
        found |= {f"layers.{number}.{name}": slot for name, slot in _layer(spec, layout, start).items()}
    if spec.head != "none":
        found |= _head(spec, layout.heads[spec.head], prefix)
    return found


def _layer(spec: EncoderSpec, layout: EncoderLayout, start: str) -> dict[str, Slot]:
    hidden, inner = spec.hidden, spec.intermediate
    found = Linear(tuple(start + n for n in layout.qkv), (hidden,) * 3, hidden, bias=True).slots("qkv")
    found |= Linear((start + layout.out,), (hidden,), hidden, bias=True).slots("out")
    found |= norm_slots("attention_norm", start + layout.attention_norm, hidden, bias=True)
    found |= Linear((start + layout.up,), (inner,), hidden, bias=True).slots("up")
    found |= Linear((start + layout.down,), (hidden,), inner, bias=True).slots("down")
    return found | norm_slots("mlp_norm", start + layout.mlp_norm, hidden, bias=True)


def _head(spec: EncoderSpec, head: HeadLayout, prefix: str) -> dict[str, Slot]:
    hidden, rows = spec.hidden, spec.labels or spec.vocab
    found: dict[str, Slot] = {}
    if spec.head_activation is not None:
        found |= Linear((head.dense.replace("*", prefix),), (hidden,), hidden, bias=True).slots("dense")
    if spec.head == "fill_mask":
        found |= norm_slots("head_norm", head.norm, hidden, bias=True)
    if spec.tied:
        return found | {"last.bias": Slot((head.tied_bias,), ((rows,),))}
    return found | Linear((head.last,), (rows,), hidden, bias=True).slots("last")
