"""What an encoder computes. As in spec.py, every field changes the result, and parity holds a mutant of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kelm.ops.activation import Activation

Head = Literal["none", "classify", "token_classify", "fill_mask"]
"""What stands on the encoder: nothing, a classifier on the first token, one on every token, a masked LM."""
Pooling = Literal["mean", "cls", "last"]
Output = Literal["softmax", "sigmoid", "identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """A post-norm encoder with learned positions (BERT): every token sees every token of its text."""

    vocab: int
    hidden: int
    intermediate: int
    heads: int
    layers: int
    positions: int
    """Rows of the position table."""
    position_padding: int | None
    """None: positions are 0, 1, ... An id p (RoBERTa): tokens other than p count up from p + 1, tokens p are at p."""
    token_types: int
    """Rows of the token type table; 0: none."""
    norm_eps: float
    activation: Activation
    pooling: Pooling
    """Of an embedding when the request doesn't say."""
    head: Head
    labels: int
    """Columns of a classifier; 0 without one."""
    head_activation: Activation | None
    """Between the head's dense layer and its last; None: the head has one layer."""
    output: Output
    """What makes a classifier's logits probabilities."""
    tied: bool
    """A masked LM's last matrix is the embedding table."""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def max_tokens(self) -> int:
        """The longest text that the position table holds."""
        return self.positions if self.position_padding is None else self.positions - self.position_padding - 1
