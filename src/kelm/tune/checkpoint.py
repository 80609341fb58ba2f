"""Checkpoints from which a run goes on bit for bit: tensors in safetensors, the rest in JSON, nothing pickled.

    step-00000500/   weights.safetensors      parameters, float32
                     optimizer.safetensors    AdamW's averages and step counters, the generator's state
                     state.json               step, recipe digest, the loss curve so far

(``write`` and ``newest`` know nothing of a decoder: the jobs of `kelm tune` keep what they train in the same way.)

A folder is written under another name, synced and renamed: a folder with the right name is whole. The data's
position needs no state: a step's rows follow from its number."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kelm.errors import ConfigError
from kelm.tune.decoder import Decoder

KEPT = 2


@dataclass(frozen=True)
class Point:
    """One step on the curve."""

    step: int
    loss: float
    learning_rate: float
    tokens_per_s: float


@dataclass
class Progress:
    """What a run has done; everything else that a checkpoint holds is tensors."""

    step: int
    curve: list[Point]
    seconds: float


def save(folder: Path, recipe_digest: str, progress: Progress, decoder: Decoder, optimizer: torch.optim.AdamW) -> Path:
    """Write a checkpoint and drop all but the newest two."""
    state = {"recipe": recipe_digest, "step": progress.step, "seconds": progress.seconds}
    state["curve"] = [list(asdict(point).values()) for point in progress.curve]
    tensors = {"weights": decoder.state_dict(), "optimizer": optimizer_tensors(decoder, optimizer)}
    return write(folder, progress.step, tensors, state)


def restore(folder: Path, recipe_digest: str, decoder: Decoder, optimizer: torch.optim.AdamW) -> Progress | None:
    """Load the newest whole checkpoint into ``decoder``, ``optimizer`` and torch's generator.

    Returns None if there is none. Raises ConfigError if it belongs to another recipe."""
    found = newest(folder)
    if found is None:
        return None
    state = found.state
    if state["recipe"] != recipe_digest:
        raise ConfigError(
            f"the checkpoint in {folder} belongs to another version of the recipe; start afresh or undo the change"
        )
    decoder.load_state_dict(found.tensors("weights"))
    restore_optimizer(found.tensors("optimizer"), decoder, optimizer)
    return Progress(state["step"], [Point(*values) for values in state["curve"]], state["seconds"])


@dataclass(frozen=True)
class Whole:
    """A checkpoint that is all there."""

    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")


def write(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """A checkpoint of ``step``: a safetensors file for each of ``tensors``, and state.json. Drops all but the newest
    two."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, group in tensors.items():
        save_file({key: value.contiguous() for key, value in group.items()}, temporary / f"{name}.safetensors")
    (temporary / "state.json").write_text(json.dumps(state))
    for path in [*temporary.iterdir(), temporary]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(folder)
    for old in _whole(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def newest(folder: Path) -> Whole | None:
    found = _whole(folder)
    return Whole(found[-1]) if found else None


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimizer's state by the module's parameter names, and torch's generator."""
    tensors = {"generator": torch.get_rng_state()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}:{name}"] = value
    return tensors


def restore_optimizer(tensors: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.AdamW) -> None:
    """The reverse of ``optimizer_tensors``."""
    for name, parameter in module.named_parameters():
        keys = [key for key in tensors if key.endswith(":" + name)]
        if keys:
            optimizer.state[parameter] = {key.partition(":")[0]: tensors[key] for key in keys}
    torch.set_rng_state(tensors["generator"])


def _whole(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
