"""What a model takes of the budget, and what its leaving gives back: the numbers that eviction is decided by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kelm.errors import OutOfMemory
from kelm.testing.checkpoints import Shape, write_llama
from kelm.wire.messages import Load
from kelm.worker.engine import Engine
from kelm.worker.executors import open_checkpoint
from kelm.worker.opened import Opened, Progress
from kelm.worker.settings import EngineSettings

SLAB = 1 << 16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = write_llama(tmp_path_factory.mktemp("model"), shape=Shape(hidden_size=64))
    return {path.name: str(path) for path in folder.iterdir()}


def engine(memory_bytes: int, opener=open_checkpoint) -> Engine:  # type: ignore[no-untyped-def]
    return Engine(
        EngineSettings(memory_bytes, kv_bytes=8 * SLAB, slab_bytes=SLAB, step_tokens=16, max_num_seqs=1), opener
    )


def held(files: dict[str, str]) -> int:
    return engine(64 << 20).load(Load(model="m@sha256:d/float32", files=files, dtype="float32")).held_bytes


def test_a_budget_for_two_holds_two_and_a_third_lacks_exactly_what_one_holds(files: dict[str, str]) -> None:
    size = held(files)
    full = engine(8 * SLAB + 2 * size)
    for name in ("a", "b"):
        assert full.load(Load(model=f"{name}@sha256:d/float32", files=files, dtype="float32")).held_bytes == size
    with pytest.raises(OutOfMemory, match=r"^the model c needs \d+ bytes and 0 of the budget") as short:
        full.load(Load(model="c@sha256:d/float32", files=files, dtype="float32"))
    assert 0 < short.value.missing_bytes <= size
    full.unload("a@sha256:d/float32")
    assert full.load(Load(model="c@sha256:d/float32", files=files, dtype="float32")).held_bytes == size


def test_the_width_that_is_asked_for_is_counted_before_anything_is_read(files: dict[str, str], tmp_path: Path) -> None:
    """Weights of half the width on disk: their size would pass, and what is read would not fit."""
    opened: list[str] = []

    def opener(command: Load, progress: Progress) -> Opened:
        opened.append(command.model)
        return open_checkpoint(command, progress)

    half = {name: value.astype(np.float16) for name, value in load_file(files["model.safetensors"]).items()}
    save_file(half, tmp_path / "model.safetensors", {"format": "pt"})
    narrow = {**files, "model.safetensors": str(tmp_path / "model.safetensors")}
    room = engine(8 * SLAB + int(1.5 * sum(Path(path).stat().st_size for path in narrow.values())), opener)
    with pytest.raises(OutOfMemory):
        room.load(Load(model="wide", files=narrow, dtype="float32"))
    assert opened == []
    assert room.load(Load(model="narrow", files=narrow, dtype="float16")).held_bytes > 0
