"""The native executor against the torch decoder, on random small checkpoints of every decoder family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from decoder_configs import CONFIGS, build
from native_kit import attach, files_of_family, open_native, open_torch
from parity_kit import save, step

from kelm.errors import UnsupportedModel
from kelm.wire.messages import Load
from kelm.worker.executors import Checkpoints
from kelm.worker.settings import EngineSettings
from quantized_kit import PRECISIONS, source_of, write_quantized

SEEDS = (0, 1, 2)


def error(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square of the difference, in standard deviations of the logits."""
    return float(np.sqrt(np.mean((mine - theirs) ** 2)) / theirs.std())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_logits(family: str, seed: int) -> None:
    """bfloat16 rounds the torch decoder's own logits by as much, seen from float32: neither is further off."""
    files = files_of_family(family, seed)
    native, torch, exact = open_native(files), open_torch(files), open_torch(files, "float32")
    rng = np.random.default_rng(seed)
    lengths = [1, 2, 16, 17, 65, 200]
    arenas = [attach(decoder, sum(lengths) + 16 * len(lengths), seed) for decoder in (native, torch, exact)]
    errors = []
    for seq, length in enumerate(lengths):
        ids = rng.integers(0, native.spec.vocab, length).tolist()
        work = {seq: (ids, 0)}
        mine, theirs, wanted = (step(*pair, work) for pair in zip((native, torch, exact), arenas, strict=True))
        assert mine.dtype == np.float32 and np.isfinite(mine).all()
        errors.append((error(mine, wanted), error(theirs, wanted)))
    mine, theirs = np.array(errors)[3:].mean(axis=0)
    assert mine < 1.25 * theirs + 0.002, errors
    assert mine < 0.5, errors


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_float32_logits(family: str, seed: int) -> None:
    """Nothing is rounded on the way, so a wrong detail has nowhere to hide."""
    files = files_of_family(family, seed)
    decoders = open_native(files, "float32"), open_torch(files, "float32")
    arenas = [attach(decoder, 700) for decoder in decoders]
    for seq, length in enumerate([1, 17, 65, 300]):
        ids = np.random.default_rng(length).integers(0, decoders[0].spec.vocab, length).tolist()
        mine, theirs = (step(*pair, {seq: (ids, 0)}) for pair in zip(decoders, arenas, strict=True))
        assert np.abs(mine - theirs).max() < 4e-4 * max(theirs.std(), 1), length


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_quantized_linears(family: str, precision: str, tmp_path: Path) -> None:
    """Weights are the torch decoder's own; activations go in 8 bits for each 32 inputs, which costs about a percent."""
    save(build(family, 1).bfloat16(), tmp_path / "plain")
    source = source_of(tmp_path / "plain", tmp_path / "home")
    files = write_quantized(source, tmp_path / "quantized", PRECISIONS[precision])
    ids = np.random.default_rng(1).integers(0, 97, 60).tolist()
    native, exact = open_native(files), open_torch(files, "float32")
    assert native.info.dtype == exact.info.dtype == PRECISIONS[precision].label
    formats = {one.format for name, one in native.weights.matrices.items() if name.startswith("layers.")}
    assert formats == {precision}
    mine, wanted = (step(one, attach(one, 100), {0: (ids, 0)}) for one in (native, exact))
    rows = np.sqrt(np.mean((mine - wanted) ** 2, axis=1)) / wanted.std()
    assert np.median(rows) < 0.1 and error(mine, wanted) < 0.3, rows


def test_integers_that_the_kernels_cannot_hold_run_on_torch(tmp_path: Path) -> None:
    """Scales in float32 that are no float16: nothing is rounded a second time to make them fit."""
    save(build("llama", 1), tmp_path / "plain")
    source = source_of(tmp_path / "plain", tmp_path / "home")
    files = write_quantized(source, tmp_path / "quantized", PRECISIONS["int8"])
    command = Load(model="m", files=files, dtype="bfloat16")
    kind = EngineSettings(memory_bytes=1 << 26)
    opened = Checkpoints(kind)(command, lambda done, total: None)
    assert (opened.loaded.executor, opened.loaded.dtype) == ("torch", "int8")
    with pytest.raises(UnsupportedModel, match="a scale is not a float16"):
        Checkpoints(replace(kind, executor="native"))(command, lambda done, total: None)
