"""The learning rate of a step: a linear warm-up, then half a cosine."""

from __future__ import annotations

import math

from kelm.tune.recipe import Training


def learning_rate(step: int, train: Training) -> float:
    """For steps 0 .. train.steps - 1; the last one runs at ``final_share`` of the peak."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    length = max(1, train.steps - 1 - train.warmup_steps)
    fallen = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - train.warmup_steps) / length)))
    return train.learning_rate * (train.final_share + (1 - train.final_share) * fallen)
