"""How each kind of data is taught, in numbers: LoRA (Hu et al. 2021, arXiv 2106.09685) on every linear of the body.

The rate follows the model's width, as measured over many models by Schulman et al. 2025, "LoRA Without Regret": ten
times full fine-tuning's, falling with the power 0.78 of the width. Measured here too (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kelm.tune.data import Kind
from kelm.wire.jobs import Tune


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    rank: int
    batch: int
    """Examples of one step."""
    most_epochs: int
    most_steps: int
    """Many examples need fewer epochs; at least one is taught whole."""
    patience: int
    """Epochs without a good held-out part before the end."""
    tolerance: float
    """Held-out losses that differ by less are the same to a few examples: of such epochs the last one is kept, which
    has learnt most."""
    enough: float
    """With a loss of the taught part below it there is nothing left to learn."""
    dropout: float
    warmup: float = 0.1
    """Of the steps."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0


METHODS: dict[Kind, Method] = {
    "classification": Method(
        rank=8, batch=16, most_epochs=20, most_steps=4000, patience=3, tolerance=0.0, enough=0.0, dropout=0.05
    ),
    "chat": Method(
        rank=16, batch=8, most_epochs=40, most_steps=4000, patience=3, tolerance=0.02, enough=0.01, dropout=0.0
    ),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A method for these examples and this model, with what the user asked for instead. A part of a version's
    settings."""

    rank: int
    batch: int
    epochs: int
    steps: int
    warmup_steps: int
    learning_rate: float
    patience: int
    tolerance: float
    enough: float
    dropout: float
    weight_decay: float
    clip_norm: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.steps // self.epochs


def plan(kind: Kind, spec: Tune, examples: int, width: int) -> Plan:
    """``width``: the model's hidden size."""
    method = METHODS[kind]
    per_epoch = math.ceil(examples / method.batch)
    epochs = spec.epochs or max(1, min(method.most_epochs, method.most_steps // per_epoch))
    steps = epochs * per_epoch
    return Plan(
        rank=spec.rank or method.rank,
        batch=method.batch,
        epochs=epochs,
        steps=steps,
        warmup_steps=math.ceil(method.warmup * steps),
        learning_rate=spec.learning_rate or rate(width),
        patience=method.patience,
        tolerance=method.tolerance,
        enough=method.enough,
        dropout=method.dropout,
        weight_decay=method.weight_decay,
        clip_norm=method.clip_norm,
        seed=spec.seed,
    )


def rate(width: int) -> float:
    """The peak, to three digits."""
    return float(f"{5e-4 * (2000 / width) ** 0.78:.3g}")


def learning_rate(step: int, made: Plan) -> float:
    """Of steps 0, 1, ...: a line up over the warm-up, then a line down to nothing after the last step."""
    if step < made.warmup_steps:
        return made.learning_rate * (step + 1) / made.warmup_steps
    return made.learning_rate * (made.steps - step) / max(1, made.steps - made.warmup_steps)
