"""Small checkpoints of odd shapes, in every float type, and images of them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kelm.models.families import find_family
from kelm.models.fields import Fields
from kelm.models.layout import slots
from kelm.models.packing import Source
from kelm.models.quantization import read_quantization
from kelm.models.tensor_index import TensorIndex

MODEL = "sha256:" + "5" * 64
FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gpt2")
_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "I32": "<i4", "I64": "<i8"}


def config_of(family: str, rng: random.Random) -> dict[str, Any]:
    if family == "gpt2":
        heads = rng.choice([1, 3])
        sizes = {"n_embd": heads * rng.choice([7, 11]), "n_head": heads, "n_layer": 2, "n_positions": 40}
        return {"model_type": family, "vocab_size": rng.choice([97, 131]), "n_inner": rng.choice([33, 61]), **sizes}
    kv_heads = rng.choice([1, 3])
    heads = kv_heads * rng.choice([1, 2])
    config = {
        "model_type": family,
        "vocab_size": rng.choice([97, 128, 131]),
        "hidden_size": heads * rng.choice([7, 9, 32]),
        "intermediate_size": rng.choice([16, 45, 61, 80]),
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": rng.choice([6, 10, 16]),
        "tie_word_embeddings": rng.random() < 0.5,
        "query_pre_attn_scalar": 4,
        "sliding_window": 7,
    }
    if family == "llama":
        config |= {"mlp_bias": rng.random() < 0.7, "attention_bias": rng.random() < 0.5}
    return config


def source_of(files: Mapping[str, str]) -> Source:
    """What a loader makes of a checkpoint's files."""
    config = Fields(json.loads(Path(files["config.json"]).read_text()))
    family = find_family(config)
    spec, index = family.read(config), TensorIndex(files, quantization=read_quantization(config))
    wanted = slots(spec, family.layout, index.prefix(family.layout.prefixes, f"{family.layout.embed}.weight"))
    index.check_wanted(wanted)
    return Source(index, wanted, spec.gated)


def write_checkpoint(folder: Path, family: str, seed: int) -> dict[str, str]:
    """Random weights in two shards; every tensor in a float type of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, noise = random.Random(f"{family}{seed}"), np.random.default_rng(seed)
    config = config_of(family, rng)
    (folder / "config.json").write_text(json.dumps(config))
    found = find_family(Fields(config))
    tensors = {
        name: random_tensor(shape[::-1] if slot.transposed and len(shape) == 2 else shape, rng, noise)
        for slot in slots(found.read(Fields(config)), found.layout, found.layout.prefixes[0]).values()
        for name, shape in zip(slot.names, slot.shapes, strict=True)
    }
    shards = {f"model-{number}.safetensors": dict(list(tensors.items())[number::2]) for number in range(2)}
    for name, shard in shards.items():
        write_tensors(folder / name, shard)
    places = {tensor: name for name, shard in shards.items() for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return {path.name: str(path) for path in folder.iterdir()}


def random_tensor(
    shape: tuple[int, ...], rng: random.Random, noise: np.random.Generator
) -> tuple[str, NDArray[np.generic]]:
    values = (noise.standard_normal(shape) * 0.1).astype(np.float32)
    kind = rng.choice(["F32", "F16", "BF16"])
    if kind == "BF16":
        return kind, (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return kind, values.astype(np.float16) if kind == "F16" else values


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, NDArray[np.generic]]]) -> None:
    """A safetensors file; the types as it writes them."""
    header, blobs, end = {}, [], 0
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array, dtype=_NUMPY[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + len(raw)]}
        blobs.append(raw)
        end += len(raw)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"".join(blobs))


def by_turns(rows: NDArray[Any], nothing: float = 0) -> NDArray[Any]:
    """Gate and up, one row after another: row 0 of a gate's tile, ..., row 15, then the up tile's."""
    each, made = len(rows) // 2, []
    for tile in range(-(-each // 16)):
        for side in (0, 1):
            for row in range(16 * tile, 16 * tile + 16):
                made.append(rows[side * each + row] if row < each else np.full_like(rows[0], nothing))
    return np.stack(made)
