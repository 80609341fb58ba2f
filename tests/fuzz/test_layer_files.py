"""Deltas and adapters from strangers: whatever is in them, the store takes them whole or says what is wrong."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.store import Store

TRIES = 400
A, B = (f"base_model.model.a.lora_{letter}.weight" for letter in "AB")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("layers")
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    tensors = {"a.weight": np.ones((4, 3), np.float32), "b.weight": np.ones(5, np.float32)}
    (folder / "base" / "model.safetensors").write_bytes(save(tensors))
    store = Store(folder / "home", packaged=folder / "none")
    store.import_folder(folder / "base", "toy")
    return store


def edited(raw: bytes, chance: random.Random) -> bytes:
    """One of: a flipped byte anywhere, a value of the header replaced, a piece cut out or doubled."""
    length = struct.unpack("<Q", raw[:8])[0]
    way = chance.randrange(4)
    if way == 0:
        at = chance.randrange(len(raw))
        return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    if way == 1:
        header = json.dumps(replaced(json.loads(raw[8 : 8 + length]), chance)).encode()
        return struct.pack("<Q", len(header)) + header + raw[8 + length :]
    start, stop = sorted(chance.randrange(len(raw)) for _ in range(2))
    return raw[:start] + (b"" if way == 2 else raw[start:stop] * 2) + raw[stop:]


RUBBISH: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 62,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    [],
    [0],
    {},
    {"q": 3},
    "a.indices",
]


def replaced(value: Any, chance: random.Random) -> Any:
    """JSON with one key or value that is something else."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.3:
            return {(str(chance.choice(RUBBISH)) if name == key else name): inner for name, inner in value.items()}
        return {name: replaced(inner, chance) if name == key else inner for name, inner in value.items()}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [replaced(inner, chance) if i == at else inner for i, inner in enumerate(value)]
    return chance.choice(RUBBISH)


def hammer(store: Store, layer: Path, write: Callable[[random.Random], None]) -> None:
    before = {path.name for path in store.home.blobs.iterdir()}
    refused = 0
    for seed in range(TRIES):
        write(random.Random(seed))
        try:
            store.add_version("toy", "x", layer=layer, parent=0)
        except (ModelFormatError, UnsupportedModel) as error:
            refused += 1
            assert len(error.message) < 1000 and "/" not in error.message.replace("N/A", "")
        else:
            store.layer_paths(store.resolve("toy@x"))
            store.remove("toy@x")
        assert {path.name for path in store.home.blobs.iterdir()} == before
    assert TRIES / 4 < refused < TRIES, "some edits change nothing that matters, most do"


def test_edited_deltas(store: Store, tmp_path: Path) -> None:
    tensors = {
        "a.weight.indices": np.array([1, 2, 11]),
        "a.weight.values": np.ones(3, np.float16),
        "b.weight.delta": np.ones(5, np.float32),
    }
    good = save(tensors, {"format": "kelm-delta", "base": store.resolve("toy").digest})
    path = tmp_path / "d"
    hammer(store, path, lambda chance: path.write_bytes(edited(good, chance)) and None)


def test_edited_adapters(store: Store, tmp_path: Path) -> None:
    tensors = {A: np.ones((2, 3), np.float32), B: np.ones((4, 2), np.float32)}
    good = save(tensors | {"base_model.model.b.weight": np.ones(5, np.float32)})
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "use_rslora": False,
        "alpha_pattern": {"a": 3},
        "bias": "all",
    }

    def write(chance: random.Random) -> None:
        first = chance.random() < 0.5
        (tmp_path / "adapter_model.safetensors").write_bytes(edited(good, chance) if first else good)
        told = config if first else replaced(config, chance)
        (tmp_path / "adapter_config.json").write_text(json.dumps(told))

    hammer(store, tmp_path, write)
