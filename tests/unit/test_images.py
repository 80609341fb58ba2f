"""The image file: what is written is what is mapped, and whatever isn't the wanted image to its last header field is
refused without a tensor being read."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kelm import doctor, limits
from kelm.config import load_settings
from kelm.errors import StoreError
from kelm.store import Store, images
from kelm.store.image_header import LINE, PAGE, Label, Wanted, lay_out
from kelm.store.images import ImageFile, Place

SRC = Path(__file__).parents[2] / "src"
LABEL = Label("sha256:" + "a" * 64, "int8", "layout1")
TENSORS = {
    "layers.0": [Wanted("layers.0.a", "bytes", (3, 7), 21), Wanted("layers.0.b", "bytes", (100,), 100)],
    "nothing": [],
    "layers.1": [Wanted("layers.1.a", "bytes", (PAGE,), PAGE), Wanted("layers.1.b", "bytes", (0,), 0)],
    "embed": [Wanted("embed", "bytes", (5,), 5)],
}


def write(place: Place) -> dict[str, bytes]:
    """Random bytes in every tensor."""
    header, noise, held = lay_out(place.label, TENSORS), np.random.default_rng(1), {}
    with place.turn(), place.writing(header) as writer:
        for extent in reversed(header.extents):
            data = np.zeros(extent.bytes, np.uint8)
            for tensor in extent.tensors:
                data[tensor.begin : tensor.end] = noise.integers(0, 256, tensor.bytes)
                held[tensor.name] = data[tensor.begin : tensor.end].tobytes()
            writer.write(extent, data)
    return held


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "images", LABEL)


def arrays(file: ImageFile) -> dict[str, np.ndarray]:
    return {t.name: file.array(extent, t) for extent in file.header.extents for t in extent.tensors}


def test_what_is_written_is_mapped(place: Place) -> None:
    held = write(place)
    file = ImageFile(place)
    assert {name: array.tobytes() for name, array in arrays(file).items()} == held
    assert all(array.ctypes.data % LINE == 0 for array in arrays(file).values())
    file.verify()
    assert file.size_bytes == place.path.stat().st_size == file.header.file_bytes()
    assert sorted(path.name for path in place.folder.iterdir()) == ["image", "lock"]


def test_extents_begin_on_pages_and_have_sums_of_their_own(place: Place) -> None:
    write(place)
    raw, header = place.path.read_bytes(), ImageFile(place).header
    for extent in header.extents:
        begin = header.data_start() + extent.begin
        assert begin % PAGE == 0
        assert hashlib.sha256(raw[begin : begin + extent.bytes]).hexdigest() == extent.sum
    used = sorted((header.data_start() + e.begin, header.data_start() + e.end) for e in header.extents)
    assert all(before[1] <= after[0] for before, after in pairwise(used))


def test_arrays_outlive_the_file_and_its_name(place: Place) -> None:
    held = write(place)
    found = arrays(ImageFile(place))
    place.path.unlink()
    assert {name: array.tobytes() for name, array in found.items()} == held


def test_every_changed_byte_of_an_extent_is_found(place: Place) -> None:
    write(place)
    good, header, rng = place.path.read_bytes(), ImageFile(place).header, random.Random(2)
    for extent in header.extents:
        begin = header.data_start() + extent.begin
        for at in {0, extent.bytes - 1, rng.randrange(extent.bytes)} if extent.bytes else ():
            place.path.write_bytes(flipped(good, begin + at, rng))
            with pytest.raises(StoreError, match=f"int8 image of sha256:aaaa.* {extent.name} is not what was written"):
                ImageFile(place).verify()


def flipped(raw: bytes, at: int, rng: random.Random) -> bytes:
    return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]


def test_a_changed_byte_of_the_head_is_refused(place: Place) -> None:
    write(place)
    good, rng = place.path.read_bytes(), random.Random(3)
    end = LINE + len(ImageFile(place).header.encoded())
    padding = range(48, LINE)
    for at in [*range(LINE), *rng.sample(range(LINE, end), 200), end - 1]:
        place.path.write_bytes(flipped(good, at, rng))
        if at in padding:
            ImageFile(place)
        else:
            with pytest.raises(StoreError, match="packed again"):
                ImageFile(place)


@pytest.mark.parametrize("keep", [0, 1, 8, 63, 64, 65, 200, PAGE - 1, PAGE, PAGE + 1, -1])
def test_a_truncated_file_is_refused(keep: int, place: Place) -> None:
    write(place)
    place.path.write_bytes(place.path.read_bytes()[:keep])
    with pytest.raises(StoreError, match="packed again"):
        ImageFile(place)


def test_rubbish_is_refused(place: Place) -> None:
    write(place)
    rng = random.Random(4)
    for _ in range(200):
        place.path.write_bytes(rng.choice([b"", b"KELMIMG\n"]) + rng.randbytes(rng.choice([0, 30, 100, PAGE])))
        with pytest.raises(StoreError, match="packed again"):
            ImageFile(place)


def test_no_file_and_a_folder_in_its_place(place: Place) -> None:
    with pytest.raises(StoreError, match="can't be read: No such file"):
        ImageFile(place)
    place.path.mkdir(parents=True)
    with pytest.raises(StoreError, match="can't be read: Is a directory"):
        ImageFile(place)


# headers that are signed as they should be, and say something else


def sealed(place: Place, change: Callable[[Any], Any]) -> None:
    """Write the image again with a changed header, its sum made right."""
    raw = place.path.read_bytes()
    header = json.loads(ImageFile(place).header.encoded())
    start = -(-(LINE + len(json.dumps(header))) // PAGE) * PAGE
    encoded = change(header)
    if not isinstance(encoded, bytes):
        encoded = json.dumps(encoded if encoded is not None else header).encode()
    prelude = b"KELMIMG\n" + len(encoded).to_bytes(8, "little") + hashlib.sha256(encoded).digest()
    place.path.write_bytes((prelude.ljust(LINE, b"\0") + encoded).ljust(start, b"\0") + raw[start:])


def set_in(*path: Any) -> Callable[[Any], None]:
    *way, last, value = path

    def change(header: Any) -> None:
        for step in way:
            header = header[step]
        header[last] = value

    return change


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "format": (set_in("format", 2), "format 2"),
    "model": (set_in("label", "model", "sha256:" + "b" * 64), "is of"),
    "precision": (set_in("label", "precision", "int4"), "is of"),
    "old layout": (set_in("label", "layout", "layout0"), "layout0"),
    "unknown field": (set_in("more", 1), "can't be read"),
    "no label": (lambda h: {k: v for k, v in h.items() if k != "label"}, "can't be read"),
    "a name with a slash": (set_in("extents", 0, "name", "../x"), "can't be read"),
    "not a sum": (set_in("extents", 0, "sum", "00"), "can't be read"),
    "negative": (set_in("extents", 0, "begin", -1), "can't be read"),
    "enormous": (set_in("extents", 0, "tensors", 0, "bytes", 1 << 60), "can't be read"),
    "extent past the end": (set_in("extents", 3, "begin", 1 << 40), "embed out of place"),
    "extent longer than its tensors": (set_in("extents", 3, "bytes", 6), "embed out of place"),
    "extent over another": (set_in("extents", 2, "begin", 0), "layers.1 out of place"),
    "tensor over another": (set_in("extents", 0, "tensors", 0, "begin", 64), "layers.0.a out of place"),
    "tensor off its line": (set_in("extents", 0, "tensors", 0, "begin", 1), "layers.0.a out of place"),
    "tensor longer than its extent": (set_in("extents", 0, "tensors", 1, "bytes", 101), "layers.0 out of place"),
    "shape": (set_in("extents", 0, "tensors", 0, "shape", [1 << 40, 1 << 40]), "layers.0.a out of place"),
    "rank": (set_in("extents", 0, "tensors", 0, "shape", [1] * 5), "can't be read"),
    "name twice": (set_in("extents", 0, "tensors", 0, "name", "embed"), "names embed twice"),
    "not JSON": (lambda h: b"{" * 200, "can't be read"),
    "deep": (lambda h: b"[" * 60_000, "can't be read"),
    "empty": (lambda h: b"", "header of 0 bytes"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_header_that_says_something_else_is_refused(wrong: str, place: Place) -> None:
    write(place)
    sealed(place, lambda header: None)
    ImageFile(place)
    change, message = WRONG[wrong]
    sealed(place, change)
    with pytest.raises(StoreError, match=message):
        ImageFile(place)


def test_bounds_of_the_header(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place)
    size = len(ImageFile(place).header.encoded())
    for bound, most in (("IMAGE_EXTENTS", 4), ("IMAGE_TENSORS", 5), ("IMAGE_HEADER_BYTES", size)):
        allowed = limits.Bound(bound, 1, most, None, "", "")
        monkeypatch.setattr(images, bound, allowed)
        ImageFile(place)
        monkeypatch.setattr(images, bound, limits.Bound(bound, 1, most - 1, None, "", ""))
        with pytest.raises(StoreError, match="packed again"):
            ImageFile(place)
        monkeypatch.setattr(images, bound, allowed)


def test_doctor_reads_every_image(place: Place) -> None:
    home = place.images.parent
    write(place)
    settings = load_settings({"home": home}, {})
    assert doctor._images(settings) == doctor.Finding("has", "images", "1 whole, 0.0 GiB")
    place.path.write_bytes(flipped(place.path.read_bytes(), place.path.stat().st_size - 1, random.Random(5)))
    finding = doctor._images(settings)
    assert finding.state == "notes" and f"embed is not what was written; remove {place.folder}" in finding.found
    place.path.write_bytes(b"")
    assert "packed again" in doctor._images(settings).found


def test_any_layout_is_found_and_no_other_model(place: Place) -> None:
    write(place)
    (found,) = images.found(place.images)
    assert ImageFile(found).header.label == LABEL
    assert list(images.found(place.images, "sha256:" + "b" * 64)) == []
    place.folder.rename(place.images / f"sha256-{'b' * 64}.int8")
    (found,) = images.found(place.images)
    with pytest.raises(StoreError, match="is of"):
        ImageFile(found)


# in the store


def test_images_go_with_their_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    folder = Path(store.paths(store.resolve("nano"))["config.json"]).parent
    model = store.import_folder(folder, "mine")
    packaged, own = store.resolve("nano"), store.import_folder(renamed(folder, tmp_path / "copy"), "other")
    kept = [Place(store.home.images, Label(digest, "int8", "l")) for digest in (packaged.digest, own.digest)]
    gone = Place(store.home.images, Label("sha256:" + "c" * 64, "int4", "l"))
    for place in (*kept, gone):
        write(place)
    assert [place.path for place in images.found(store.home.images, own.digest)] == [kept[1].path]
    assert {place.path for place in images.found(store.home.images)} == {place.path for place in (*kept, gone)}
    assert model.digest == packaged.digest
    store.remove("mine")
    assert [place.path.exists() for place in (*kept, gone)] == [True, True, False], "what nothing names went"
    store.remove("other")
    assert [place.folder.exists() for place in kept] == [True, False]


def renamed(folder: Path, copy: Path) -> Path:
    """The same model with another digest."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes() + b"\n")
    return copy


def test_nothing_of_it_imports_torch() -> None:
    script = "import sys; import kelm.models.images, kelm.models.packing; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SRC), "PATH": ""}, check=False)
    assert done.returncode == 0
