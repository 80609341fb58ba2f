"""What a model computes, without its weights and without the names its checkpoint uses.

Every field changes the result: tests/parity holds a mutant of each one against transformers. What doesn't change
a result (architecture name, end tokens, context length) is in info.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kelm.models.batch import KVGroup
from kelm.models.part import Part
from kelm.ops.activation import Activation
from kelm.ops.rotation import Rope

Norm = Literal["rms", "rms_plus_one", "layer"]
"""rms_plus_one: RMS norm whose stored weight is the difference from 1 (Gemma)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What may differ from layer to layer."""

    window: int | None
    """None: full attention. w: a row sees the last w positions, its own included."""
    rope: Rope | None
    score_scale: float
    """Multiplies q . k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A pre-norm decoder; attention is causal, query head h reads KV head h // (heads / kv_heads)."""

    vocab: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: tuple[LayerSpec, ...]
    learned_positions: int
    """Rows of the position table that is added to the embedding; 0: none."""
    embedding_scale: float
    norm: Norm
    norm_eps: float
    qk_norm: bool
    """RMS norm of each query and key head before rotation."""
    post_norms: bool
    """A norm after attention and after the MLP too, before each is added to the residual."""
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    gated: bool
    """down(act(gate x) * up x), else down(act(up x))."""
    activation: Activation
    score_cap: float | None
    """Soft cap of attention scores."""
    logit_cap: float | None
    tied: bool
    """Logits are made with the embedding table."""

    def whole(self) -> Part:
        return Part(range(len(self.layers)), len(self.layers))

    def kv_groups(self, part: Part | None = None) -> tuple[KVGroup, ...]:
        """One group for each window that occurs in the model, in order of first layer; of ``part``, each with that
        part's layers only, which may be none."""
        held = (part or self.whole()).layers
        by_window: dict[int | None, list[int]] = {}
        for number, layer in enumerate(self.layers):
            by_window.setdefault(layer.window, []).extend([number] if number in held else [])
        return tuple(KVGroup(tuple(n), self.kv_heads, self.head_dim, window) for window, n in by_window.items())
