"""Products with packed weights in C++ against the numpy twin, and each row against itself in other company.

Bits, not tolerances: on every instruction set of the machine, AMX's units included (their tiles in plain C++).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.ops import native, packed, packed_reference

Floats = npt.NDArray[np.float32]

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a C++ compiler")

SCALES = [1.0, 1e-3, 1e4, 1e30, 3e38, 1e-30, 2.0**-99, 1e-42]
"""3e38 overflows when multiplied, 1e-30 is below what activations count as zero under, 1e-42 is a denormal."""
WEIGHT_SCALES = [1.0, 0.02, 1e-7, 1e5]
"""1e-7 makes scales denormal in float16."""
EXACT = [(name, isa) for name in packed.FORMATS for isa in native.machine_isas() if (name, isa) != ("bf16", "amx")]


def bits(x: Floats) -> list[int]:
    """As integers, so that -0.0 is not 0.0; all nans are one (which of two is kept is the processor's choice)."""
    return np.where(np.isnan(x), np.float32(np.nan), x).astype(np.float32).view(np.uint32).ravel().tolist()


def example(seed: int, rows: int, outputs: int, inputs: int, scale: float = 1.0) -> tuple[Floats, Floats]:
    """Activations with one channel in two hundred a hundred times the others, as real models have; and weights."""
    noise = np.random.default_rng(seed)
    x = noise.standard_normal((rows, inputs))
    x[:, noise.random(inputs) < 0.005] *= 100
    with np.errstate(over="ignore"):
        x = np.clip(x * scale, -3.4e38, 3.4e38).astype(np.float32)
    return x, noise.standard_normal((outputs, inputs)).astype(np.float32)


def product(x: Floats, weights: packed.Packed, isa: str, threads: int = 1, bias: Floats | None = None) -> Floats:
    out: Floats = packed.linear(native.pool(threads), x, weights, bias=bias, isa_name=isa)
    return out


def bit_exact(isa: str, weights: str) -> bool:
    """AMX has an arithmetic of its own for bf16."""
    return weights != "bf16" or not isa.startswith("amx")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 20),
    outputs=st.integers(0, 70),
    inputs=st.integers(1, 200),
    scale=st.sampled_from(SCALES),
    weight_scale=st.sampled_from(WEIGHT_SCALES),
    weights=st.sampled_from(packed.FORMATS),
    biased=st.booleans(),
)
def test_every_instruction_set_gives_the_twins_bits(
    seed: int,
    rows: int,
    outputs: int,
    inputs: int,
    scale: float,
    weight_scale: float,
    weights: packed.Format,
    biased: bool,
) -> None:
    x, w = example(seed, rows, outputs, inputs, scale)
    w *= np.float32(weight_scale)
    bias = w[:, 0].copy() if biased else None
    wanted = bits(packed_reference.linear(x, w, weights, bias))
    image = packed.pack(native.pool(1), w, weights)
    for isa in native.machine_isas():
        if bit_exact(isa, weights):
            assert bits(product(x, image, isa, bias=bias)) == wanted, isa


@pytest.mark.parametrize("weights", packed.FORMATS)
def test_more_rows_and_inputs_than_a_cache_block_holds(weights: packed.Format) -> None:
    """Row chunks, parts of a tile, panels of every size and an odd number of tiles."""
    x, w = example(3, 209, 40, 2100)
    image = packed.pack(native.pool(1), w, weights)
    wanted = packed_reference.linear(x[::13], w, weights)
    for isa in set(native.machine_isas()) - {"portable"}:
        if bit_exact(isa, weights):
            assert bits(product(x, image, isa, threads=2)[::13]) == bits(wanted), isa


@pytest.mark.parametrize("isa", native.machine_isas())
@pytest.mark.parametrize("weights", packed.FORMATS)
def test_a_rows_bits_do_not_depend_on_its_batch(weights: packed.Format, isa: str) -> None:
    x, w = example(5, 64, 50, 150)
    image = packed.pack(native.pool(1), w, weights)
    alone = np.concatenate([product(x[row : row + 1], image, isa) for row in range(64)])
    for batch in range(1, 65):
        assert bits(product(x[:batch], image, isa)) == bits(alone[:batch]), batch
        assert bits(product(x[64 - batch :], image, isa)) == bits(alone[64 - batch :]), batch


@pytest.mark.parametrize("weights", packed.FORMATS)
def test_a_row_among_hundreds_is_the_row_alone(weights: packed.Format) -> None:
    x, w = example(6, 512, 70, 300)
    image = packed.pack(native.pool(1), w, weights)
    for isa in set(native.machine_isas()) - {"portable", "amx_emulated"}:
        together = product(x, image, isa, threads=2)
        for row in (0, 5, 95, 96, 191, 192, 300, 511):
            assert bits(product(x[row : row + 1], image, isa)) == bits(together[row]), (isa, row)


@pytest.mark.parametrize("weights", packed.FORMATS)
def test_the_number_of_threads_cannot_be_seen(weights: packed.Format) -> None:
    x, w = example(7, 100, 700, 300)
    for rows in (1, 16, 100):
        image = packed.pack(native.pool(1), w, weights)
        one = bits(product(x[:rows], image, native.isa(), threads=1))
        for threads in (2, 3, 7):
            assert bits(product(x[:rows], image, native.isa(), threads=threads)) == one


def test_amx_for_bf16_is_as_near_as_its_precision_allows() -> None:
    x, w = example(8, 40, 33, 400)
    image = packed.pack(native.pool(1), w, "bf16")
    exact = packed_reference.round_bf16(x).astype(np.float64) @ packed_reference.round_bf16(w).astype(np.float64).T
    for isa in native.machine_isas():
        error = np.abs(product(x, image, isa) - exact).max() / np.abs(exact).max()
        assert error < 1e-6, isa


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_takes_its_row_and_no_other(weights: packed.Format, value: float) -> None:
    x, w = example(9, 5, 40, 70)
    image = packed.pack(native.pool(1), w, weights)
    for isa in native.machine_isas():
        before = product(x, image, isa)
        spoilt = x.copy()
        spoilt[2, 35] = value
        after = product(spoilt, image, isa)
        assert np.isnan(after[2]).all(), isa
        assert bits(np.delete(after, 2, 0)) == bits(np.delete(before, 2, 0)), isa


def test_bf16_does_with_infinities_what_ieee_says() -> None:
    x, w = example(10, 3, 20, 70)
    x[1, 4], w[7, 4], w[8, 4] = np.inf, 0.0, 2.0
    image = packed.pack(native.pool(1), w, "bf16")
    for isa in native.machine_isas():
        got = product(x, image, isa)
        assert np.isnan(got[1, 7]) and got[1, 8] == np.inf, isa
        assert np.isfinite(got[[0, 2]]).all(), isa


def test_rows_may_lie_apart_and_nothing_else_is_written() -> None:
    x, w = example(11, 7, 37, 90)
    wide_x, wide_out = np.zeros((7, 130), np.float32), np.full((14, 60), 5, np.float32)
    wide_x[:, :90] = x
    image = packed.pack(native.pool(1), w, "int8")
    out = wide_out[::2, 3:40]
    assert packed.linear(native.pool(2), wide_x[:, :90], image, out=out) is out
    assert bits(out) == bits(product(x, image, native.isa()))
    wide_out[::2, 3:40] = 5
    assert (wide_out == 5).all(), "wrote outside its rows"


def test_the_callers_denormals_survive() -> None:
    x, w = example(12, 3, 20, 70)
    image = packed.pack(native.pool(2), w, "int8")
    tiny = np.float32(1e-42)
    assert tiny * np.float32(1) != 0
    product(x, image, native.isa(), threads=2)
    assert tiny * np.float32(1) != 0, "flush-to-zero was left on"


def test_close_to_torch_and_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    x, w = example(13, 9, 40, 130)
    tensor = torch.from_numpy(w).bfloat16()
    image = packed.pack(native.pool(1), tensor, "bf16")
    wanted = torch.nn.functional.linear(torch.from_numpy(x).bfloat16().float(), tensor.float())
    out = torch.empty(9, 40)
    got = packed.linear(native.pool(1), torch.from_numpy(x), image, out=out)
    assert got is out
    assert torch.allclose(out, wanted, rtol=1e-5, atol=1e-3)


WRONG = [
    ({"x": np.zeros((2, 70))}, TypeError, None),
    ({"x": np.zeros(70, np.float32)}, (TypeError, IndexError), None),
    ({"x": np.zeros((2, 69), np.float32)}, None, None),
    ({"x": np.zeros((2, 200), np.float32)}, ValueError, "data has 4352 bytes, the matrix 8704"),
    ({"x": np.zeros((70, 2), np.float32).T}, ValueError, "last dimension must be contiguous"),
    ({"out": np.zeros((2, 21), np.float32)}, ValueError, r"out is \[2, 21\], the result \[2, 20\]"),
    ({"out": np.zeros((2, 20))}, TypeError, None),
    ({"bias": np.zeros(19, np.float32)}, ValueError, "each of 20 outputs"),
    ({"bias": np.zeros(40, np.float32)[::2]}, ValueError, "contiguous"),
]


@pytest.mark.parametrize(("changed", "error", "says"), WRONG)
def test_wrong_arrays_are_errors(changed: dict[str, object], error: type[Exception] | None, says: str | None) -> None:
    image = packed.pack(native.pool(1), np.ones((20, 70), np.float32), "int8")
    arguments = {"x": np.zeros((2, 70), np.float32), **changed}
    if error is None:  # 69 inputs have the bytes of 70: the padding is the same
        packed.linear(native.pool(1), arguments.pop("x"), image)
        return
    with pytest.raises(error, match=says):
        packed.linear(native.pool(1), arguments.pop("x"), image, **arguments)


def test_an_instruction_set_that_the_machine_lacks_is_refused() -> None:
    image = packed.pack(native.pool(1), np.ones((20, 70), np.float32), "int8")
    with pytest.raises(ValueError, match="does not have that instruction set"):
        native.loaded().linear(
            native.pool(1), np.ones((1, 70), np.float32), image.data, 20, 1, None, np.ones((1, 20), np.float32), 99
        )


DIGEST = """
import hashlib, sys
sys.path[:0] = sys.argv[1].split(":")
from test_native_linear import digest
print(digest())
"""


def digest() -> str:
    """Of every format's product under the instruction set in use."""
    x, w = example(14, 30, 100, 300)
    found = hashlib.sha256()
    for weights in packed.FORMATS:
        if bit_exact(native.isa(), weights):
            found.update(packed.linear(native.pool(2), x, packed.pack(native.pool(1), w, weights)).tobytes())
    return f"{native.isa()} {found.hexdigest()}"


def test_lowered_by_kelm_isa_in_another_process() -> None:
    wanted = {}
    for isa in native.machine_isas():
        if isa.startswith("amx"):
            continue
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DIGEST, os.pathsep.join([str(Path(__file__).parent), *sys.path])],
            env={**os.environ, "KELM_ISA": isa},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        name, wanted[isa] = done.stdout.split()
        assert name == isa
    assert len(set(wanted.values())) == 1, wanted
