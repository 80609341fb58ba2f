"""What is in an image is what the torch loader reads, packed as the plain twin of the kernels' packing does it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from images_kit import FAMILIES, MODEL, by_turns, source_of, write_checkpoint, write_tensors
from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models import images
from kelm.models.packing import Precision, Source
from kelm.ops import native, packed, packed_reference, prequantized
from kelm.store.safetensors import read_header

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a C++ compiler")

PRECISIONS: dict[Precision, packed.Format] = {"bfloat16": "bf16", "int8": "int8", "int4": "int4"}
if "float32" in packed.FORMATS:
    PRECISIONS["float32"] = "float32"
SEEDS = range(4)


def made(folder: Path, source: Source, precision: Precision, threads: int = 2) -> images.Image:
    folder.mkdir(exist_ok=True)
    return images.ready_image(images.place(folder / "images", MODEL, precision), source, native.pool(threads))


def expected(source: Source, name: str, gated: bool) -> np.ndarray:
    """The slot in float32, through torch."""
    torch = pytest.importorskip("torch")
    from kelm.models.weights import Checkpoint

    weights = Checkpoint(source.index.files).read({name: source.slots[name]}, torch.float32, None)
    whole = weights[name].numpy()
    return by_turns(whole) if gated and ".up." in name else whole


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_slot_is_there_to_the_bit(family: str, precision: Precision, seed: int, tmp_path: Path) -> None:
    source = source_of(write_checkpoint(tmp_path / "model", family, seed))
    image = made(tmp_path, source, precision)
    assert image.matrices.keys() | image.vectors.keys() == source.slots.keys()
    for name, matrix in image.matrices.items():
        rows = expected(source, name, source.gated)
        table = name in ("embed.weight", "head.weight")
        weights = "int8" if table and precision == "int4" else PRECISIONS[precision]
        assert (matrix.outputs, matrix.inputs, matrix.format) == (*rows.shape, weights), name
        assert matrix.data.ctypes.data % 64 == 0
        assert matrix.data.tobytes() == packed_reference.pack(rows, weights).tobytes(), name
        assert name == "embed.weight" or source.slots[name].linear
    for name, vector in image.vectors.items():
        assert vector.dtype == np.float32 and vector.tobytes() == expected(source, name, source.gated).tobytes(), name
        assert len(source.slots[name].shapes[0]) == 1 or name == "positions.weight"


def test_the_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    source = source_of(write_checkpoint(tmp_path / "model", "llama", 7))
    files = []
    for threads in (1, 3):
        made(tmp_path / str(threads), source, "int4", threads)
        files.append(images.place(tmp_path / str(threads) / "images", MODEL, "int4").path.read_bytes())
    assert files[0] == files[1]


def test_what_lies_between_tensors_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(write_checkpoint(tmp_path / "model", "llama", 7))
    real, files = packed.empty, []
    for rubbish in (0, 0xAA):

        def used(size: int, rubbish: int = rubbish) -> np.ndarray:
            room = real(size)
            room[:] = rubbish
            return room

        monkeypatch.setattr(packed, "empty", used)
        place = images.place(tmp_path / "images", MODEL, "int8")
        images.build_image(place, source, native.pool(1))
        files.append(place.path.read_bytes())
    assert files[0] == files[1]


def test_the_arrays_are_the_file_and_can_not_be_written(tmp_path: Path) -> None:
    source = source_of(write_checkpoint(tmp_path / "model", "llama", 1))
    image = made(tmp_path, source, "int8")
    for array in (image.matrices["layers.0.up.weight"].data, image.vectors["final_norm.weight"]):
        assert not array.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0


def test_a_mapped_matrix_multiplies_as_one_in_memory(tmp_path: Path) -> None:
    source = source_of(write_checkpoint(tmp_path / "model", "qwen2", 2))
    pool, matrix = native.pool(2), made(tmp_path, source, "int8").matrices["layers.0.up.weight"]
    x = np.random.default_rng(1).standard_normal((3, matrix.inputs)).astype(np.float32)
    rows = expected(source, "layers.0.up.weight", True)
    wanted = packed.linear(pool, x, packed.pack(pool, rows, "int8"))
    assert (packed.linear(pool, x, matrix) == wanted).all()


# weights that are integers in the checkpoint


def quantized_checkpoint(
    folder: Path, bits: int, group: int | None, *, dtype: str = "BF16", plain: bool = False, seed: int = 0
) -> tuple[Source, dict[str, np.ndarray]]:
    """A llama as `kelm compress` writes it, and what its linears are as floats."""
    files = write_checkpoint(folder, "llama", seed)
    source = source_of(files)
    noise, tensors, floats = np.random.default_rng(seed), {}, {}
    for slot in source.slots.values():
        for name, (*shape,) in zip(slot.names, slot.shapes, strict=True):
            entry = source.index.entries[name]
            if slot.linear:
                stored, floats[name] = quantized(noise, tuple(shape), bits, group, dtype, plain)
                tensors |= {f"{name.removesuffix('.weight')}.{end}": value for end, value in stored.items()}
            else:
                array = source._array(entry)
                tensors[name] = (entry.dtype, array)
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group" if group else "channel"}
    form = "int-quantized" if plain else "pack-quantized"
    scheme = {"weights": weights | ({"group_size": group} if group else {}), "format": form}
    config = json.loads(Path(files["config.json"]).read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": {"group_0": scheme}}
    made_of = folder / "quantized"
    made_of.mkdir()
    (made_of / "config.json").write_text(json.dumps(config))
    write_tensors(made_of / "model.safetensors", tensors)
    return source_of({path.name: str(path) for path in made_of.iterdir()}), floats


def quantized(
    noise: np.random.Generator, shape: tuple[int, int], bits: int, group: int | None, dtype: str, plain: bool
) -> tuple[dict[str, tuple[str, np.ndarray]], np.ndarray]:
    rows, columns = shape
    each = group or columns
    half = 1 << (bits - 1)
    values = noise.integers(-half, half, shape)
    scales = (noise.random((rows, -(-columns // each))) * 0.1 + 0.001).astype(np.float32)
    scales = packed_reference.round_bf16(scales) if dtype == "BF16" else scales.astype(np.float16).astype(np.float32)
    values[0, :each], scales[0, 0] = 0, np.float32(2.0**-126)  # compress's scale of a group that is all zeros
    floats = values * np.repeat(scales, each, axis=1)[:, :columns].astype(np.float64)
    kept = (scales.view(np.uint32) >> np.uint32(16)).astype(np.uint16) if dtype == "BF16" else scales
    stored: dict[str, tuple[str, np.ndarray]] = {"weight_scale": (dtype, kept)}
    if plain:
        return stored | {"weight": ("I8", values)}, floats
    words = np.zeros((rows, -(-columns * bits // 32)), np.uint32)
    for column in range(columns):
        word, place = divmod(column * bits, 32)
        words[:, word] |= ((values[:, column] + half).astype(np.uint32)) << np.uint32(place)
    stored |= {"weight_packed": ("I32", words.view(np.int32)), "weight_shape": ("I64", np.array(shape))}
    return stored, floats


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("bits", "group", "plain"),
    [
        (4, 32, False),
        (4, 64, False),
        (4, 128, False),
        (8, None, False),
        (8, None, True),
        (8, 32, True),
        (4, None, False),
    ],
)
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_integers_of_a_checkpoint_stay_as_they_are(
    bits: int, group: int | None, plain: bool, dtype: str, seed: int, tmp_path: Path
) -> None:
    """Whatever precision is asked for: the image holds the very numbers, rounded no second time."""
    source, floats = quantized_checkpoint(tmp_path / "model", bits, group, dtype=dtype, plain=plain, seed=seed)
    image = made(tmp_path, source, random.Random(seed).choice(["bfloat16", "int8", "int4"]))
    for name, matrix in image.matrices.items():
        if name == "embed.weight":
            continue
        wanted = np.concatenate([floats[file] for file in source.slots[name].names])
        wanted = by_turns(wanted) if ".up." in name else wanted
        ids = np.arange(matrix.outputs, dtype=np.int64)
        assert matrix.format == f"int{bits}"
        assert packed.unpack(native.pool(1), matrix, ids).tobytes() == wanted.astype(np.float32).tobytes(), name


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_integers_are_laid_out_as_packing_lays_them_out(weights: packed.Format) -> None:
    """Padding included."""
    original = np.random.default_rng(3).standard_normal((37, 130)).astype(np.float32)
    values, scales = packed_reference.quantize_weights(original, weights)
    unsigned = (values.astype(np.int16) + prequantized.ZERO[weights]).astype(np.uint8).reshape(len(values), -1)
    to = packed.empty(packed.packed_bytes(37, 130, weights))
    prequantized.lay_out(unsigned[:37, :130], scales[:37, : -(-130 // 32)], weights, to)
    rows = (values * scales.astype(np.float32)[..., None]).reshape(len(values), -1)[:37, :130]
    out = packed.unpack(native.pool(1), packed.Packed(to, 37, 130, weights), np.arange(37, dtype=np.int64))
    assert (out == rows).all()
    assert to.tobytes() == packed_reference.pack(original, weights).tobytes()


def test_a_scale_that_is_no_float16_is_refused(tmp_path: Path) -> None:
    source, _ = quantized_checkpoint(tmp_path / "model", 8, None, dtype="F32")
    module = source.slots["layers.0.out.weight"].names[0].removesuffix(".weight")
    path = Path(source.index.files["model.safetensors"])
    raw = bytearray(path.read_bytes())
    header = read_header(path)
    at = header.data_start + header.tensors[f"{module}.weight_scale"].end - 4
    raw[at : at + 4] = np.float32(0.0123456).tobytes()
    path.write_bytes(raw)
    with pytest.raises(UnsupportedModel, match=r"o_proj.weight can't be packed as int8: a scale is not a float16"):
        made(tmp_path, source, "int8")
    assert not list((tmp_path / "images").glob("*/image")) and not list((tmp_path / "images").glob("*/.tmp-*"))


def test_groups_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source, _ = quantized_checkpoint(tmp_path / "model", 4, 16, seed=3)
    with pytest.raises(UnsupportedModel, match="groups of 16 inputs"):
        made(tmp_path, source, "int4")


def test_a_shape_that_contradicts_the_config_is_refused(tmp_path: Path) -> None:
    source, _ = quantized_checkpoint(tmp_path / "model", 4, 32)
    path = Path(source.index.files["model.safetensors"])
    raw, name = path.read_bytes(), source.slots["layers.0.down.weight"].names[0].removesuffix(".weight")
    at = read_header(path).data_start + read_header(path).tensors[f"{name}.weight_shape"].begin
    path.write_bytes(raw[:at] + (1).to_bytes(8, "little") + raw[at + 8 :])
    with pytest.raises(ModelFormatError, match="weight_shape holds"):
        made(tmp_path, source, "int4")


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_a_weight_that_is_not_finite_is_refused(precision: Precision, tmp_path: Path) -> None:
    source = source_of(write_checkpoint(tmp_path / "model", "gpt2", 1))
    path = Path(source.index.files["model-0.safetensors"])
    raw = bytearray(path.read_bytes())
    header = read_header(path)
    name = next(n for n, info in header.tensors.items() if len(info.shape) == 2 and "h." in n)
    at = header.data_start + header.tensors[name].begin
    raw[at : at + 4] = b"\xff" * 4
    path.write_bytes(raw)
    with pytest.raises(UnsupportedModel, match="not finite"):
        made(tmp_path, source, precision)
