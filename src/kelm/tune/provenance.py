"""PROVENANCE.json: what a model was made from, so that anybody can make it again and compare."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kelm.tune.checkpoint import Progress
from kelm.tune.corpus import Corpus
from kelm.tune.recipe import Recipe

LAST = 50
"""Steps over which the final loss is averaged."""


def write(folder: Path, recipe: Recipe, made: Corpus, progress: Progress, facts: dict[str, object]) -> None:
    last = [point.loss for point in progress.curve[-LAST:]]
    tree = {
        "name": recipe.name,
        "recipe_sha256": recipe.digest,
        "data_sha256": made.digest,
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "seed": recipe.seed,
        "steps": progress.step,
        "final_loss": round(sum(last) / len(last), 5),
        "train_seconds": round(progress.seconds, 1),
        "generator": made.report,
        **{key: round(value, 5) if isinstance(value, float) else value for key, value in facts.items()},
    }
    (folder / "PROVENANCE.json").write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
