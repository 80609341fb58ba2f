"""What an evaluation found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kelm.evaluate.metrics import ClassFigures
from kelm.evaluate.tasks import Kind


@dataclass(frozen=True, slots=True)
class Result:
    """``metrics``: the figures by name (metrics.py has their ranges); ``counts``: how much text they are over.
    ``classes`` and ``confusion`` as in metrics.Classification, empty for other kinds."""

    model: str
    task: str
    kind: Kind
    n: int
    metrics: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Only what this kind has; null for a figure that is past every number (JSON has no infinity)."""
        made = {name: value for name, value in asdict(self).items() if value or name == "metrics"}
        made["metrics"] = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return made
