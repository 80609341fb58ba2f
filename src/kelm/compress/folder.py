"""Writing the smaller checkpoint: one tensor after another, in shards, then the files that name them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kelm.compress.plan import Plan
from kelm.compress.rounding import RoundingError, quantize
from kelm.models.weights import Reader
from kelm.store import compression
from kelm.store.checkpoint import CONFIG, INDEX, WEIGHTS

SHARD_BYTES = 512 << 20
"""Of one file, and held in memory until it is written."""

Tensors = Iterator[tuple[str, Tensor]]
Progress = Callable[[int, int], None]


def write(folder: Path, plan: Plan, progress: Progress) -> RoundingError:
    """A whole checkpoint in ``folder``, which must not be there: weights, config.json, and the source's other files as
    they are. Raises ModelFormatError for weights that are not finite."""
    folder.mkdir(parents=True)
    error = RoundingError()
    _write_shards(folder, _tensors(plan, error, progress))
    (folder / CONFIG).write_text(json.dumps(plan.config(), indent=2) + "\n", encoding="utf-8")
    for name, path in plan.source.files.items():
        if not name.endswith(".safetensors") and name not in (CONFIG, INDEX, compression.FILE):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    return error


def _tensors(plan: Plan, error: RoundingError, progress: Progress) -> Tensors:
    source, linears = plan.source, dict(plan.linears())
    names = sorted(name for slot in source.slots.values() for name in slot.names)
    reader = Reader(source.files)
    for done, name in enumerate(names):
        progress(done, len(names))
        new = plan.new_name(name)
        if new is None:
            continue
        weight = reader.tensor(source.checkpoint.entries[name])
        if name in linears:
            yield from _rounded(new, weight, plan, error)
        else:
            yield new, weight


def _rounded(name: str, weight: Tensor, plan: Plan, error: RoundingError) -> Tensors:
    assert plan.quantization is not None
    module = name.removesuffix(".weight")
    packed, scale = quantize(name, weight, plan.quantization.bits, plan.quantization.group or weight.shape[1], error)
    yield f"{module}.weight_packed", packed
    yield f"{module}.weight_scale", scale
    yield f"{module}.weight_shape", torch.tensor(weight.shape)


def _write_shards(folder: Path, made: Tensors) -> None:
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    sizes = [0]

    def close() -> None:
        save_file(held, folder / f"{len(shards)}.part", {"format": "pt"})
        shards.append(list(held))
        held.clear()
        sizes.append(0)

    for name, tensor in made:
        if held and sizes[-1] + tensor.nbytes > SHARD_BYTES:
            close()
        held[name] = tensor.contiguous()
        sizes[-1] += tensor.nbytes
    close()
    _name_shards(folder, shards, sum(sizes))


def _name_shards(folder: Path, shards: list[list[str]], total_bytes: int) -> None:
    """As save_pretrained names them."""
    if len(shards) == 1:
        (folder / "0.part").rename(folder / WEIGHTS)
        return
    where: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
