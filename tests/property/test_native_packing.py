"""The packed layouts, byte for byte against their numpy twin, and back."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kelm.ops import native, packed, packed_reference

Floats = npt.NDArray[np.float32]

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a C++ compiler")


def matrix(seed: int, outputs: int, inputs: int, scale: float) -> Floats:
    """Some groups are all zeros, some have two largest values of opposite signs."""
    noise = np.random.default_rng(seed)
    w = noise.standard_normal((outputs, inputs))
    w[noise.random(w.shape) < 0.2] = 0
    if outputs and inputs > 40:
        w[0, :32] = 0
        w[-1, 32:34] = 7, -7
    return (w * scale).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(0, 50),
    inputs=st.integers(1, 200),
    scale=st.sampled_from([1.0, 0.02, 1e4, 1e-6, 1e-42]),
    weights=st.sampled_from(packed.FORMATS),
    threads=st.integers(1, 3),
)
def test_the_bytes_are_the_twins(
    seed: int, outputs: int, inputs: int, scale: float, weights: packed.Format, threads: int
) -> None:
    w = matrix(seed, outputs, inputs, scale)
    image = packed.pack(native.pool(threads), w, weights)
    assert image.data.nbytes == packed.packed_bytes(outputs, inputs, weights)
    assert image.data.tobytes() == packed_reference.pack(w, weights).tobytes()
    rows = np.arange(outputs, dtype=np.int64)
    back = packed.unpack(native.pool(threads), image, rows)
    assert (back == packed_reference.unpack(w, weights)).all()


@pytest.mark.parametrize("weights", packed.FORMATS)
def test_what_comes_back_is_as_near_as_the_format_allows(weights: packed.Format) -> None:
    w = matrix(1, 64, 320, 0.05)
    back = packed.unpack(native.pool(1), packed.pack(native.pool(1), w, weights), np.arange(64, dtype=np.int64))
    largest = np.abs(w.reshape(64, -1, 32)).max(-1, keepdims=True)
    step = {"bf16": 2.0**-8, "int8": 1 / 127, "int4": 1 / 6.9}[weights]
    assert (np.abs((back - w).reshape(64, -1, 32)) <= largest * step).all()


@pytest.mark.parametrize(("weights", "bits"), [("bf16", 16), ("int8", 8.5), ("int4", 4.5)])
def test_bits_for_a_weight(weights: packed.Format, bits: float) -> None:
    """Those of GGUF's BF16, Q8_0 and Q4_0."""
    assert packed.packed_bytes(896, 4864, weights) == 896 * 4864 * bits / 8


def test_every_kind_of_checkpoint_row() -> None:
    torch = pytest.importorskip("torch")
    w = packed_reference.round_bf16(matrix(2, 20, 70, 0.05).astype(np.float16).astype(np.float32))
    w = w.astype(np.float16).astype(np.float32)
    w = np.where(packed_reference.round_bf16(w) == w, w, np.float32(0))
    halves = (w.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    tensor = torch.from_numpy(w)
    for weights in packed.FORMATS:
        wanted = packed.pack(native.pool(1), w, weights).data.tobytes()
        for rows in (w.astype(np.float16), halves, tensor, tensor.bfloat16(), tensor.half(), np.pad(w, 3)[3:-3, 3:-3]):
            assert packed.pack(native.pool(1), rows, weights).data.tobytes() == wanted


def test_ids_in_any_order_and_twice() -> None:
    w = matrix(3, 50, 40, 1.0)
    image = packed.pack(native.pool(1), w, "int8")
    ids = np.array([49, 0, 17, 17, 16], dtype=np.int64)
    assert (packed.unpack(native.pool(2), image, ids) == packed_reference.unpack(w, "int8")[ids]).all()
    assert packed.unpack(native.pool(2), image, ids[:0]).shape == (0, 40)


def test_a_read_only_map_of_a_file_serves(tmp_path: Path) -> None:
    x, w = np.ones((2, 70), np.float32), matrix(4, 33, 70, 1.0)
    image = packed.pack(native.pool(1), w, "int4")
    path = tmp_path / "image"
    path.write_bytes(image.data.tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        data = np.frombuffer(view, dtype=np.uint8)
        mapped = packed.Packed(data, 33, 70, "int4")
        assert (packed.linear(native.pool(1), x, mapped) == packed.linear(native.pool(1), x, image)).all()
        del data, mapped


@pytest.mark.parametrize("weights", packed.FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(weights: packed.Format, value: float) -> None:
    w = matrix(5, 20, 70, 1.0)
    w[19, 69] = value
    with pytest.raises(ValueError, match="not finite"):
        packed.pack(native.pool(1), w, weights)


@pytest.mark.parametrize(("weights", "most"), [("bf16", 3.389e38), ("int8", 65504 * 128), ("int4", 65504 * 7)])
def test_weights_at_the_edge_of_a_format(weights: packed.Format, most: float) -> None:
    w = np.full((16, 64), most, np.float32)
    back = packed.unpack(native.pool(1), packed.pack(native.pool(1), w, weights), np.zeros(1, np.int64))
    assert np.isfinite(back).all() and np.allclose(back, most, rtol=0.02)
    with pytest.raises(ValueError, match="too large"):
        packed.pack(native.pool(1), np.nextafter(w * np.float32(1.004), np.float32(np.inf)), weights)


def test_wrong_arrays_are_errors() -> None:
    pool, w = native.pool(1), np.ones((20, 70), np.float32)
    with pytest.raises(TypeError, match="float32, float16, bfloat16"):
        packed.pack(pool, w.astype(np.float64), "int8")
    with pytest.raises(ValueError, match="contiguous"):
        packed.pack(pool, w.T, "int8")
    with pytest.raises(ValueError, match="data has 5 bytes, the matrix 4352"):
        packed.pack(pool, w, "int8", to=packed.empty(5))
    with pytest.raises(ValueError, match="line of 64 bytes"):
        packed.pack(pool, w, "int8", to=packed.empty(4352 + 64)[4:][:4352])
    with pytest.raises(ValueError, match="0 inputs"):
        packed.packed_bytes(20, 0, "int8")
    with pytest.raises(ValueError, match="no such format: 7"):
        native.loaded().packed_bytes(20, 70, 7)


@pytest.mark.parametrize("wrong", [-1, 20])
def test_an_id_out_of_range_is_an_error(wrong: int) -> None:
    image = packed.pack(native.pool(1), np.ones((20, 70), np.float32), "int8")
    with pytest.raises(ValueError, match=f"id {wrong} of 20 rows"):
        packed.unpack(native.pool(1), image, np.array([3, wrong], np.int64))
