"""Checkpoints from which a run goes on bit for bit: tensors in safetensors, the rest in JSON, nothing pickled.

    step-00000500/   weights.safetensors      parameters, float32
                     optimizer.safetensors    AdamW's averages and step counters, the generator's state
                     state.json               step, recipe digest, the loss curve so far

A folder is written under another name, synced and renamed: a folder with the right name is whole. The data's
position needs no state: a step's rows follow from its number."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    final = folder / f"step-{progress.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in decoder.state_dict().items()}, temporary / "weights.safetensors"
    )
    save_file(_optimizer_tensors(decoder, optimizer), temporary / "optimizer.safetensors")
    state = {"recipe": recipe_digest, "step": progress.step, "seconds": progress.seconds}
    state["curve"] = [list(asdict(point).values()) for point in progress.curve]
    (temporary / "state.json").write_text(json.dumps(state))
    for path in [*temporary.iterdir(), temporary]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(folder)
    for old in _whole(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def restore(folder: Path, recipe_digest: str, decoder: Decoder, optimizer: torch.optim.AdamW) -> Progress | None:
    """Load the newest whole checkpoint into ``decoder``, ``optimizer`` and torch's generator.

    Returns None if there is none. Raises ConfigError if it belongs to another recipe."""
    found = _whole(folder)
    if not found:
        return None
    state = json.loads((found[-1] / "state.json").read_text())
    if state["recipe"] != recipe_digest:
        raise ConfigError(
            f"the checkpoint in {folder} belongs to another version of the recipe; start afresh or undo the change"
        )
    decoder.load_state_dict(load_file(found[-1] / "weights.safetensors"))
    tensors = load_file(found[-1] / "optimizer.safetensors")
    for name, parameter in decoder.named_parameters():
        keys = [key for key in tensors if key.endswith(":" + name)]
        optimizer.state[parameter] = {key.partition(":")[0]: tensors[key] for key in keys}
    torch.set_rng_state(tensors["generator"])
    return Progress(state["step"], [Point(*values) for values in state["curve"]], state["seconds"])


def _optimizer_tensors(decoder: Decoder, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    tensors = {"generator": torch.get_rng_state()}
    for name, parameter in decoder.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}:{name}"] = value.contiguous()
    return tensors


def _whole(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
