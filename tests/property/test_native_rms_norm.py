"""rms_norm in C++ against a plain twin, on every instruction set that this machine has, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.errors import ConfigError
from kelm.ops import native

Floats = npt.NDArray[np.float32]

LANES = 16
SCALES = [1.0, 1e-3, 1e4, 1e30, 1e-30, 1e-42]
"""1e30 squared overflows, 1e-30 squared underflows, 1e-42 is a denormal."""


def test_the_extension_is_built_where_there_is_a_compiler() -> None:
    has_compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    assert native.available() or not has_compiler, (
        "a compiler is here, kelm._native is not: `make test` builds it, or `pip install -e .`"
    )


needs_native = pytest.mark.skipif(not native.available(), reason="installed without a C++ compiler")


def twin(x: Floats, weight: Floats, eps: float, unit_offset: bool) -> Floats:
    """The definition in csrc/rms_norm.hpp, in numpy: IEEE single steps in the same order."""
    rows, hidden = x.shape
    padded = np.pad(x, ((0, 0), (0, -hidden % LANES))).reshape(rows, -(-hidden // LANES), LANES)
    with np.errstate(all="ignore"):
        lanes = np.zeros((rows, LANES), dtype=np.float32)
        for group in range(padded.shape[1]):
            lanes = lanes + padded[:, group] * padded[:, group]
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        inverse = np.float32(1) / np.sqrt(lanes / np.float32(hidden) + np.float32(eps))
        gain = np.float32(1) + weight if unit_offset else weight
        return np.asarray((x * inverse) * gain, dtype=np.float32)


def example(seed: int, rows: int, hidden: int, scale: float) -> tuple[Floats, Floats]:
    noise = np.random.default_rng(seed)
    x = (noise.standard_normal((rows, hidden)) * scale).astype(np.float32)
    return x, noise.standard_normal(hidden).astype(np.float32)


def bits(x: Floats) -> list[int]:
    """Compared as integers: -0.0 is not 0.0, and nan is itself."""
    return np.ascontiguousarray(x).view(np.uint32).ravel().tolist()


@needs_native
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 5),
    hidden=st.integers(1, 200),
    scale=st.sampled_from(SCALES),
    eps=st.sampled_from([0.0, 1e-6, 1e-5]),
    unit_offset=st.booleans(),
)
def test_every_instruction_set_gives_the_twins_bits(
    seed: int, rows: int, hidden: int, scale: float, eps: float, unit_offset: bool
) -> None:
    x, weight = example(seed, rows, hidden, scale)
    wanted = bits(twin(x, weight, eps, unit_offset))
    for name in native.machine_isas():
        assert bits(native.rms_norm(x, weight, eps, unit_offset=unit_offset, isa_name=name)) == wanted, name


@needs_native
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 9), hidden=st.integers(1, 100))
def test_a_rows_bits_do_not_depend_on_its_batch(seed: int, rows: int, hidden: int) -> None:
    x, weight = example(seed, rows, hidden, 1.0)
    for name in native.machine_isas():
        together = native.rms_norm(x, weight, 1e-6, isa_name=name)
        for row in range(rows):
            assert bits(native.rms_norm(x[row : row + 1], weight, 1e-6, isa_name=name)) == bits(together[row])


@needs_native
def test_rows_may_lie_apart_and_the_result_may_replace_the_input() -> None:
    wide, weight = example(1, 6, 40, 1.0)
    view = wide[::2, :33]
    wanted = bits(twin(view.copy(), weight[:33], 1e-6, False))
    untouched = wide.copy()
    untouched[::2, :33] = 0
    assert native.rms_norm(view, weight[:33], 1e-6, out=view) is view
    assert bits(view) == wanted
    wide[::2, :33] = 0
    assert bits(wide) == bits(untouched), "wrote outside its rows"


@needs_native
def test_close_to_torch_and_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    x, weight = example(2, 7, 130, 3.0)
    tensor = torch.from_numpy(x)
    wanted = torch.nn.functional.rms_norm(tensor, (130,), torch.from_numpy(weight), 1e-6)
    got = native.rms_norm(tensor, torch.from_numpy(weight), 1e-6)
    assert isinstance(got, torch.Tensor)
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert bits(got.numpy()) == bits(native.rms_norm(x, weight, 1e-6))
    native.rms_norm(tensor, torch.from_numpy(weight), 1e-6, out=tensor)
    assert bits(x) == bits(got.numpy()), "the tensor shares x's memory, so x must have changed"


@needs_native
@pytest.mark.parametrize(
    ("x", "weight", "error"),
    [
        (np.zeros((2, 4)), np.zeros(4, np.float32), TypeError),
        (np.zeros(4, np.float32), np.zeros(4, np.float32), TypeError),
        (np.zeros((2, 4), np.float32), np.zeros(5, np.float32), ValueError),
        (np.zeros((4, 2), np.float32).T, np.zeros(4, np.float32), ValueError),
    ],
    ids=["float64", "rank", "width", "columns apart"],
)
def test_a_wrong_array_is_an_error_never_a_silent_copy(x: Floats, weight: Floats, error: type[Exception]) -> None:
    with pytest.raises(error):
        native.rms_norm(x, weight, 1e-6)


@needs_native
def test_a_read_only_result_is_an_error() -> None:
    x, weight = example(3, 2, 8, 1.0)
    out = np.zeros_like(x)
    out.setflags(write=False)
    with pytest.raises(TypeError):
        native.rms_norm(x, weight, 1e-6, out=out)


def isa_under(value: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from kelm.ops import native; print(native.isa())"],
        env={**os.environ, "KELM_ISA": value, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_native
def test_kelm_isa_lowers_the_instruction_set_and_nothing_else() -> None:
    for name in set(native.machine_isas()) - {"amx_emulated"}:
        assert isa_under(name).stdout.strip() == name
    assert "KELM_ISA is 'amx_emulated'" in isa_under("amx_emulated").stderr
    unknown = isa_under("mmx")
    assert unknown.returncode != 0
    assert "KELM_ISA is 'mmx'; this machine has portable" in unknown.stderr


@needs_native
def test_an_instruction_set_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = example(4, 1, 8, 1.0)
    extension = native._extension()
    assert extension is not None
    with pytest.raises(ValueError, match="does not have"):
        extension.rms_norm(x, weight, np.empty_like(x), 1e-6, False, len(native.ISAS))
    monkeypatch.setattr(native, "_extension", lambda: None)
    assert native.machine_isas() == ()
    with pytest.raises(ConfigError, match="install a C\\+\\+ compiler"):
        native.rms_norm(x, weight, 1e-6)
