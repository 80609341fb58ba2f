"""Names, import, resolve, remove: one home, no crashes (tests/fault has those)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kelm.errors import InvalidRequest, ModelFormatError, ModelNotFound, StoreError
from kelm.store import Name, Store
from kelm.store.home import MIGRATIONS, Home
from kelm.store.safetensors import read_header


def write_checkpoint(folder: Path, value: float = 0.0, shards: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "value": value}))
    (folder / "tokenizer.json").write_text("{}")
    tensors = {f"t{i}": np.full((4, 3), value + i, dtype=np.float32) for i in range(4)}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    places = {tensor: names[i % shards] for i, tensor in enumerate(tensors)}
    for name in names:
        save_file({tensor: data for tensor, data in tensors.items() if places[tensor] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home", packaged=tmp_path / "package")


def blob_files(store: Store) -> set[str]:
    return {path.name for path in store.home.blobs.iterdir() if path.is_file()}


def test_import_then_resolve_from_another_store(store: Store, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "src", 1.5)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_x.py").write_text("raise SystemExit")
    made = store.import_folder(folder, "toy")
    again = Store(store.home.root, packaged=tmp_path / "package")
    assert again.resolve("toy") == again.resolve("toy:latest") == made
    paths = again.paths(made)
    assert set(paths) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert all(Path(paths[name]).read_bytes() == (folder / name).read_bytes() for name in paths)
    assert read_header(paths["model.safetensors"]).tensors["t0"].shape == (4, 3)


def test_a_blob_is_not_the_imported_file(store: Store, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "src")
    made = store.import_folder(folder, "toy")
    before = Path(store.paths(made)["config.json"]).read_bytes()
    with (folder / "config.json").open("r+b") as stream:
        stream.write(b"XXXX")
    assert Path(store.paths(made)["config.json"]).read_bytes() == before


def test_shards_come_from_the_index(store: Store, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "src", shards=2)
    (folder / "consolidated.safetensors").write_bytes(b"not one of them")
    made = store.import_folder(folder, "org/toy:v1")
    assert made.name == "org/toy:v1"
    assert "consolidated.safetensors" not in made.files
    assert len([name for name in made.files if name.endswith(".safetensors")]) == 2


def test_index_and_shards_must_agree(store: Store, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "src", shards=2)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    for bad, word in (
        ({**good, "t0": good["t1"]}, "t0"),
        ({**good, "t9": good["t1"]}, "t9"),
        ({**good, "t9": "../src/x.safetensors"}, "t9"),
        ({**good, "t9": "x.safetensors"}, "x.safetensors"),
        ([], "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(ModelFormatError, match=word):
            store.import_folder(folder, "toy")
    assert store.list() == [] and blob_files(store) == set()


def test_blobs_are_shared_and_swept(store: Store, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "src")
    first = store.import_folder(folder, "a")
    second = store.import_folder(folder, "b")
    assert first.digest == second.digest and len(blob_files(store)) == 3
    store.remove("a")
    assert len(blob_files(store)) == 3
    (folder / "config.json").write_text('{"new": 1}')
    store.import_folder(folder, "b")
    assert len(blob_files(store)) == 3
    store.remove("b:latest")
    assert blob_files(store) == set() and store.list() == []


def test_missing_names_get_near_matches(store: Store, tmp_path: Path) -> None:
    store.import_folder(write_checkpoint(tmp_path / "src"), "Qwen/Qwen3-0.6B")
    for wrong in ("Qwen/Qwen3-06B", "qwen/qwen3-0.6b"):
        with pytest.raises(ModelNotFound, match=r"did you mean Qwen/Qwen3-0\.6B\?"):
            store.resolve(wrong)
    with pytest.raises(ModelNotFound):
        store.remove("zzz")


def test_case_twins_are_refused(store: Store, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "src")
    store.import_folder(folder, "toy:v1")
    for twin in ("Toy:v1", "TOY:v2", "toy:V1"):
        with pytest.raises(InvalidRequest, match="only by case"):
            store.import_folder(folder, twin)
    store.import_folder(folder, "toy:v2")


def test_models_of_the_package_are_in_every_store(store: Store, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "package" / "small", 7.0)
    shipped = store.resolve("small")
    assert shipped.source == "package" and [model.name for model in store.list()] == ["small:latest"]
    assert Path(store.paths(shipped)["config.json"]).parent == tmp_path / "package" / "small"
    with pytest.raises(InvalidRequest, match="package"):
        store.remove("small")
    own = store.import_folder(write_checkpoint(tmp_path / "src", 8.0), "small")
    assert store.resolve("small") == own != shipped
    store.remove("small")
    assert store.resolve("small") == shipped


def test_folders_that_are_not_checkpoints(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "src"
    with pytest.raises(StoreError, match="there is no folder"):
        store.import_folder(folder, "toy")
    folder.mkdir()
    with pytest.raises(ModelFormatError, match=r"config\.json is missing"):
        store.import_folder(folder, "toy")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="no weights"):
        store.import_folder(folder, "toy")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelFormatError, match=r"pytorch_model\.bin, a pickle.*safe_serialization"):
        store.import_folder(folder, "toy")
    write_checkpoint(folder)
    for bad in ("[1]", "{", "[" * 100_000, "\udcff"):
        (folder / "config.json").write_text(bad, errors="surrogateescape")
        with pytest.raises(ModelFormatError, match=r"config\.json"):
            store.import_folder(folder, "toy")


def test_damage_is_named(store: Store, tmp_path: Path) -> None:
    made = store.import_folder(write_checkpoint(tmp_path / "src"), "toy")
    other = store.import_folder(write_checkpoint(tmp_path / "src2", 3.0), "other")
    os.truncate(store.paths(made)["model.safetensors"], 10)
    with pytest.raises(StoreError, match=r"model\.safetensors of toy:latest.*10 bytes"):
        store.paths(made)
    (store.home.manifests / "toy" / "latest.json").write_text("{")
    with pytest.raises(StoreError, match="toy:latest is damaged"):
        store.resolve("toy")
    assert store.list() == [other]
    store.remove("toy")
    assert store.names() == [Name.parse("other")]


def test_newer_home_is_refused_and_older_ones_migrate(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Store(home)
    assert (home / "VERSION").read_text() == "2\n"
    ran: list[int] = []
    steps = {**MIGRATIONS, 2: lambda root: ran.append(2), 3: lambda root: ran.append(3)}
    Home(home, steps)
    assert ran == [2, 3] and (home / "VERSION").read_text() == "4\n"
    Home(home, steps)
    assert ran == [2, 3]
    with pytest.raises(StoreError, match=r"home was written by a newer Kelm \(format 4, this one knows 2\)"):
        Store(home)
    (home / "VERSION").write_text("soon")
    with pytest.raises(StoreError, match="VERSION is damaged"):
        Store(home)


def test_interrupted_migration_runs_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Store(home)
    calls: list[int] = []

    def step(root: Path) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        Home(home, {**MIGRATIONS, 2: step})
    assert (home / "VERSION").read_text() == "2\n"
    Home(home, {**MIGRATIONS, 2: step})
    assert len(calls) == 2 and (home / "VERSION").read_text() == "3\n"


def test_a_home_of_the_first_format_gets_a_place_for_variants(store: Store) -> None:
    store.home.variants.rmdir()
    (store.home.root / "VERSION").write_text("1\n")
    assert Store(store.home.root).home.variants.is_dir()
    assert (store.home.root / "VERSION").read_text() == "2\n", "an older Kelm would sweep the variants' blobs"
