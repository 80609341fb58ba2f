"""The corpus of a run: made by the recipe's generator or read from its files, kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kelm.errors import ConfigError
from kelm.tune.recipe import Recipe


@dataclass(frozen=True)
class Corpus:
    train: tuple[Path, ...]
    heldout: tuple[Path, ...]
    digest: str
    """SHA-256 over the training files' bytes."""
    report: dict[str, object]
    """What the generator said about the training split."""


def make(recipe: Recipe, folder: Path) -> Corpus:
    """Generate or find the documents. Raises ConfigError when there are none or the generator fails."""
    if recipe.data.generator:
        train, heldout = folder / "train.jsonl", folder / "heldout.jsonl"
        report = _generate(recipe, "train", recipe.data.documents, train)
        _generate(recipe, "heldout", recipe.data.heldout_documents, heldout)
        return Corpus((train,), (heldout,), _digest([train]), report)
    files, heldout_files = (_glob(recipe, name) for name in ("files", "heldout_files"))
    return Corpus(files, heldout_files, _digest(files), {})


def _generate(recipe: Recipe, split: str, documents: int, out: Path) -> dict[str, object]:
    data = recipe.data
    command = [sys.executable, str(recipe.folder / data.generator), "--split", split, "--documents", str(documents)]
    command += ["--seed", str(recipe.seed), "--out", str(out)]
    if data.exclude:
        command += ["--exclude", *(str(recipe.folder / name) for name in data.exclude.split())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"data.generator {data.generator} failed: {done.stderr.strip()[-2000:]}")
    last = done.stdout.strip().rpartition("\n")[2]
    report: dict[str, object] = json.loads(last) if last.startswith("{") else {}
    return report


def _glob(recipe: Recipe, name: str) -> tuple[Path, ...]:
    pattern = getattr(recipe.data, name)
    found = tuple(sorted(recipe.folder.glob(pattern))) if pattern else ()
    if not found:
        raise ConfigError(f"data.{name}: {pattern or 'nothing given and'} no file matches in {recipe.folder}")
    return found


def _digest(paths: tuple[Path, ...] | list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
