"""Totals since the worker started; the daemon's metrics are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    preemptions: int = 0
    prompt_tokens: int = 0
    """Of processes that started, cached ones included."""
    generated_tokens: int = 0
    recomputed_tokens: int = 0
    """Computed a second time after a preemption."""
    cached_tokens: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    """By executor."""
