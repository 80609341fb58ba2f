"""Versions of variants in the store: what is added, published, rolled back, refused. Crashes are in tests/fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kelm import limits
from kelm.errors import InvalidRequest, ModelFormatError, ModelNotFound, StoreError
from kelm.store import Name, Store, Variant
from kelm.store.additions import overrides_in
from kelm.store.difference import write_delta

SHAPES = {"a.weight": (4, 3), "b.weight": (5,), "c.weight": (2, 2)}


def write_checkpoint(folder: Path, value: float = 1.0, kind: type[Any] = np.float32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "value": value}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({name: np.full(shape, value, kind) for name, shape in SHAPES.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home", packaged=tmp_path / "package")
    store.import_folder(write_checkpoint(tmp_path / "base"), "org/toy:v1")
    return store


BASE = "org/toy:v1"


def delta(store: Store, path: Path, tensors: dict[str, np.ndarray] | None = None, **metadata: str) -> Path:
    tensors = {"b.weight": np.arange(5, dtype=np.float32)} if tensors is None else tensors
    told = {"format": "kelm-delta", "base": store.resolve(BASE).digest, **metadata}
    save_file(tensors, path, told)
    return path


def sparse(value: float, at: int = 0) -> dict[str, np.ndarray]:
    return {"a.weight.indices": np.array([at]), "a.weight.values": np.array([value], np.float32)}


def blob_files(store: Store) -> set[str]:
    return {path.name for path in store.home.blobs.iterdir() if path.is_file()}


def test_names_of_variants() -> None:
    name = Name.parse("org/toy:v1@shop:12")
    assert (name.base, name.variant, name.version) == (Name("org", "toy", "v1"), "shop", 12)
    assert str(name) == name.short == "org/toy:v1@shop:12" and str(name.unpinned) == "org/toy:v1@shop"
    assert str(Name.parse("nano@support")) == "nano:latest@support"
    assert Name.parse("nano:latest@support:3").short == "nano@support:3"


def test_a_version_is_added_and_resolved(store: Store, tmp_path: Path) -> None:
    made = store.add_version(
        BASE,
        "shop",
        layer=delta(store, tmp_path / "d.safetensors", sparse(2.0)),
        overrides={"tokenizer.json": write_file(tmp_path / "t.json", '{"new": 1}')},
        author="me",
        evaluation={"accuracy": 0.9},
        data_digest="sha256:1",
        settings={"rank": 8},
        note="first",
    )
    assert (made.number, made.parent, made.kind) == (1, 0, "sparse")
    again = Store(store.home.root, packaged=tmp_path / "package")
    assert again.history("org/toy:v1@shop").versions == (made,)
    assert (made.author, made.evaluation, made.settings, made.note) == ("me", {"accuracy": 0.9}, {"rank": 8}, "first")
    model, base = again.resolve("org/toy:v1@shop"), again.resolve(BASE)
    assert isinstance(model, Variant) and model.base == base and model.name == "org/toy:v1@shop:1"
    assert model.asked_as == "org/toy:v1@shop" and again.resolve("org/toy:v1@shop:1") == model
    paths = again.paths(model)
    assert Path(paths["tokenizer.json"]).read_text() == '{"new": 1}'
    assert {**paths, "tokenizer.json": ""} == {**again.paths(base), "tokenizer.json": ""}
    (layer,) = again.layer_paths(model)
    assert load_file(layer["delta.safetensors"])["a.weight.values"] == [2.0]
    assert [str(name) for name in again.names()] == ["org/toy:v1", "org/toy:v1@shop"]
    assert [each.asked_as for each in again.list()] == ["org/toy:v1", "org/toy:v1@shop"]
    assert again.layer_paths(base) == [] and base.asked_as == base.name


def write_file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_layers_and_files_are_inherited_from_the_parent(store: Store, tmp_path: Path) -> None:
    one, two = (delta(store, tmp_path / f"{n}.safetensors", sparse(n)) for n in (1.0, 2.0))
    beside = {"chat_template.jinja": write_file(tmp_path / "chat", "x")}
    store.add_version(BASE, "x", layer=one, overrides=beside)
    second = store.add_version(BASE, "x", layer=two)
    assert second.parent == 1 and len(second.layers) == 2 and set(second.overrides) == {"chat_template.jinja"}
    assert second.added_bytes == two.stat().st_size and second.size_bytes > second.added_bytes
    third = store.add_version(BASE, "x", layer=two, parent=0)
    assert third.parent == 0 and third.layers == second.layers[1:] and third.overrides == {}
    fourth = store.add_version(BASE, "x", overrides={"chat_template.jinja": write_file(tmp_path / "chat2", "y")})
    assert (fourth.kind, fourth.parent, fourth.layers) == ("files", 3, third.layers)
    assert store.add_version(BASE, "x", layer=one, parent=2, publish=False).layers[:2] == second.layers
    assert store.history(f"{BASE}@x").current == 4
    with pytest.raises(ModelNotFound, match="no version 9 of org/toy:v1@x: it has 1 to 5"):
        store.add_version(BASE, "x", layer=one, parent=9)


def test_publish_and_rollback_walk_the_same_way_back(store: Store, tmp_path: Path) -> None:
    for n in (1.0, 2.0, 3.0):
        store.add_version(BASE, "x", layer=delta(store, tmp_path / "d", sparse(n)), parent=0, publish=n < 3)
    name = f"{BASE}@x"
    assert store.history(name).current == 2
    assert store.publish(name, 3).current == 3 and store.publish(name, 3).before == (1, 2)
    assert store.publish(name, 1).current == 1
    for wanted in (3, 2, 1):
        assert store.rollback(name).current == wanted and store.resolve(name).name == f"{name}:{wanted}"
    with pytest.raises(InvalidRequest, match="nothing to go back to"):
        store.rollback(name)
    with pytest.raises(ModelNotFound, match="no version 4 of"):
        store.publish(name, 4)
    told = [(event.what, event.number) for event in store.history(name).events]
    assert told == [
        *[("added", 1), ("published", 1), ("added", 2), ("published", 2), ("added", 3), ("published", 3)],
        *[("published", 1), ("rolled_back", 3), ("rolled_back", 2), ("rolled_back", 1)],
    ]


def test_an_unpublished_variant_is_there_and_not_served(store: Store, tmp_path: Path) -> None:
    store.add_version(BASE, "x", layer=delta(store, tmp_path / "d"), publish=False)
    with pytest.raises(ModelNotFound, match=r"no version of org/toy:v1@x is published: `kelm publish org/toy:v1@x:N`"):
        store.resolve(f"{BASE}@x")
    assert store.resolve(f"{BASE}@x:1").name == f"{BASE}@x:1"
    assert [model.name for model in store.list()] == [BASE]
    with pytest.raises(InvalidRequest, match="nothing to go back to"):
        store.rollback(f"{BASE}@x")


def test_what_is_not_there_gets_near_matches(store: Store, tmp_path: Path) -> None:
    store.add_version(BASE, "support", layer=delta(store, tmp_path / "d"))
    for ask in (store.resolve, store.history, store.rollback, store.remove):
        with pytest.raises(ModelNotFound, match="no model org/toy:v1@suport here; did you mean org/toy:v1@support"):
            ask(f"{BASE}@suport")
    for ask in (store.history, store.rollback):
        with pytest.raises(InvalidRequest, match="org/toy:v1 is a model; a variant of it is org/toy:v1@NAME"):
            ask(BASE)
    with pytest.raises(InvalidRequest, match="is a variant's name"):
        store.import_folder(tmp_path / "base", f"{BASE}@x")
    with pytest.raises(InvalidRequest, match="not a variant's name"):
        store.add_version(BASE, "x:3", layer=tmp_path / "d")
    with pytest.raises(ModelNotFound):
        store.add_version("nobody", "x", layer=tmp_path / "d")
    with pytest.raises(InvalidRequest, match="only by case"):
        store.add_version(BASE, "Support", layer=tmp_path / "d")


def test_a_base_keeps_its_content_as_long_as_it_has_variants(store: Store, tmp_path: Path) -> None:
    blobs = blob_files(store)
    store.add_version(BASE, "x", layer=delta(store, tmp_path / "d"))
    with pytest.raises(InvalidRequest, match=r"has variants: `kelm rm org/toy:v1@x` first"):
        store.remove(BASE)
    with pytest.raises(InvalidRequest, match=r"variants that were made for its content \(org/toy:v1@x\)"):
        store.import_folder(write_checkpoint(tmp_path / "new", 2.0), BASE)
    store.import_folder(tmp_path / "base", BASE)  # the same content
    store.import_folder(tmp_path / "new", "org/toy:v2")
    assert len(store.paths(store.resolve(f"{BASE}@x"))) == 3
    with pytest.raises(InvalidRequest, match="no version goes alone"):
        store.remove(f"{BASE}@x:1")
    store.remove(f"{BASE}@x")
    store.remove("org/toy:v2")
    assert blob_files(store) == blobs, "the variant's blobs are gone, the base's are not"
    store.remove(BASE)
    assert blob_files(store) == set()


def test_blobs_of_every_version_outlive_other_writers(store: Store, tmp_path: Path) -> None:
    for n in (1.0, 2.0):
        store.add_version(BASE, "x", layer=delta(store, tmp_path / "d", sparse(n)), parent=0)
    store.import_folder(write_checkpoint(tmp_path / "other", 5.0), "other")  # sweeps
    store.remove("other")
    for number in (1, 2):
        (layer,) = store.layer_paths(store.resolve(f"{BASE}@x:{number}"))
        assert load_file(layer["delta.safetensors"])["a.weight.values"] == [number]


def test_another_content_of_a_base_from_the_package_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "home", packaged=tmp_path / "package")
    write_checkpoint(tmp_path / "package" / "small", 1.0)
    digest = store.resolve("small").digest
    write_delta(tmp_path / "d", digest, {}, {"b.weight": np.zeros(5, np.float32)})
    store.add_version("small", "x", layer=tmp_path / "d")
    write_checkpoint(tmp_path / "package" / "small", 2.0)  # another release of the package
    for ask in (lambda: store.resolve("small@x"), lambda: store.add_version("small", "x", layer=tmp_path / "d")):
        with pytest.raises(
            StoreError, match=r"made for small:latest with the content sha256:.* bring that content back"
        ):
            ask()
    assert [model.name for model in store.list()] == ["small:latest"]


def a(**tensors: np.ndarray) -> dict[str, np.ndarray]:
    return {name.replace("__", "."): value for name, value in tensors.items()}


F = np.float32
BAD: dict[str, tuple[dict[str, np.ndarray], dict[str, str], str]] = {
    "another base": ({"b.weight": np.zeros(5, F)}, {"base": "sha256:" + "0" * 64}, "for a base with the digest"),
    "no format": ({"b.weight": np.zeros(5, F)}, {"format": "pt"}, '"format": "kelm-delta", got .pt.'),
    "nothing": ({}, {}, "changes no tensor"),
    "unknown": ({"z.weight.delta": np.zeros(5, F)}, {}, "z.weight: is not a tensor of org/toy:v1"),
    "new": ({"z.weight": np.zeros(5, F)}, {}, "z.weight: is not a tensor of org/toy:v1; .* config.json beside it"),
    "whole shape": ({"b.weight": np.zeros(4, F)}, {}, r"b.weight: has the shape \[4\], the base's tensor has \[5\]"),
    "dense shape": ({"a.weight.delta": np.zeros((3, 4), F)}, {}, r"a.weight.delta: has the shape \[3, 4\]"),
    "twice": ({"a.weight.delta": np.zeros((4, 3), F), **sparse(1)}, {}, "a.weight: is changed twice"),
    "half": ({"a.weight.values": np.zeros(1, F)}, {}, "a.weight.values: comes without a.weight.indices"),
    "other half": ({"a.weight.indices": np.zeros(1, np.int64)}, {}, "comes without a.weight.values"),
    "index too large": (sparse(1, 12), {}, "a.weight.indices: holds 12, the base's tensor has 12 values"),
    "index below 0": (sparse(1, -1), {}, "a.weight.indices: holds -1"),
    "index twice": (a(a__weight__indices=np.array([3, 1, 3]), a__weight__values=np.ones(3, F)), {}, "holds 3 twice"),
    "lengths": (a(a__weight__indices=np.array([3, 1]), a__weight__values=np.ones(3, F)), {}, "floats of shape"),
    "index type": (a(a__weight__indices=np.array([3], np.int32), a__weight__values=np.ones(1, F)), {}, "must be I64"),
    "value type": (a(a__weight__indices=np.array([3]), a__weight__values=np.ones(1, np.float64)), {}, "must be floats"),
    "integers": ({"b.weight": np.zeros(5, np.int64)}, {}, "b.weight: is I64; it must be one of F32"),
    "nan": ({"b.weight": np.array([0, 1, np.nan, 0, 0], F)}, {}, "b.weight: holds a value that is not a finite"),
    "infinite": ({"b.weight.delta": np.array([0, 1, np.inf, 0, 0], np.float16)}, {}, "b.weight.delta: holds a value"),
    "sparse nan": (sparse(float("nan")), {}, "a.weight.values: holds a value"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_delta_is_checked_to_its_last_value_and_leaves_nothing(case: str, store: Store, tmp_path: Path) -> None:
    tensors, metadata, words = BAD[case]
    before = blob_files(store)
    with pytest.raises(ModelFormatError, match=words):
        store.add_version(BASE, "x", layer=delta(store, tmp_path / "d", tensors, **metadata))
    assert blob_files(store) == before and list(store.home.staging.iterdir()) == []
    assert list(store.home.variants.rglob("*")) == []


def test_a_whole_tensor_may_be_new_beside_a_config(store: Store, tmp_path: Path) -> None:
    config = {"config.json": write_file(tmp_path / "c.json", '{"model_type": "llama", "labels": 2}')}
    new = {"z.weight": np.ones((2, 2), F), "b.weight": np.ones(9, F)}
    store.add_version(BASE, "x", layer=delta(store, tmp_path / "d", new), overrides=config)
    second = {"z.weight.indices": np.array([3]), "z.weight.values": np.ones(1, F)}
    assert store.add_version(BASE, "x", layer=delta(store, tmp_path / "d2", second)).kind == "sparse"
    with pytest.raises(ModelFormatError, match=r"z\.weight: is not a tensor of"):
        store.add_version(BASE, "x", layer=tmp_path / "d2", parent=0)


def test_other_things_that_are_no_layers(store: Store, tmp_path: Path) -> None:
    good = delta(store, tmp_path / "d")
    with pytest.raises(InvalidRequest, match="needs a layer or files"):
        store.add_version(BASE, "x")
    with pytest.raises(StoreError, match="no file or folder"):
        store.add_version(BASE, "x", layer=tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match=r"model\.safetensors can't stand in for a file of the base"):
        store.add_version(BASE, "x", overrides={"model.safetensors": good})
    with pytest.raises(ModelFormatError, match=r"config\.json: is not JSON"):
        store.add_version(BASE, "x", overrides={"config.json": write_file(tmp_path / "c", "{")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFormatError, match=r"neither an adapter .* nor a checkpoint"):
        store.add_version(BASE, "x", layer=tmp_path / "empty")
    with pytest.raises(InvalidRequest, match="the length of note must be between"):
        store.add_version(BASE, "x", layer=good, note="x" * 5000)
    with pytest.raises(InvalidRequest, match="the size of evaluation and settings must be between"):
        store.add_version(BASE, "x", layer=good, settings={"x": "y" * 70_000})
    with pytest.raises(InvalidRequest, match="must be JSON values"):
        store.add_version(BASE, "x", layer=good, evaluation={"x": object()})


def test_a_link_out_of_an_adapters_folder_is_not_followed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").symlink_to(write_file(tmp_path / "secret", '{"peft_type": "LORA"}'))
    with pytest.raises(ModelFormatError, match="is a link out of the folder"):
        store.add_version(BASE, "x", layer=folder)


def test_bounds_of_a_history(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = delta(store, tmp_path / "d")
    monkeypatch.setattr(limits, "VARIANT_LAYERS", limits._int("layers", 1, 2, None, "", ""))
    monkeypatch.setattr(limits, "VARIANT_VERSIONS", limits._int("versions", 1, 3, None, "", ""))
    for _ in range(2):
        store.add_version(BASE, "x", layer=good)
    with pytest.raises(InvalidRequest, match="version 2 of org/toy:v1@x has 2 layers, the most"):
        store.add_version(BASE, "x", layer=good)
    store.add_version(BASE, "x", layer=good, parent=0)
    with pytest.raises(InvalidRequest, match="has 3 versions, the most"):
        store.add_version(BASE, "x", layer=good, parent=0)


def test_damage_is_named(store: Store, tmp_path: Path) -> None:
    store.add_version(BASE, "x", layer=delta(store, tmp_path / "d"))
    model = store.resolve(f"{BASE}@x")
    (layer,) = store.layer_paths(model)
    content = Path(layer["delta.safetensors"]).read_bytes()
    Path(layer["delta.safetensors"]).write_bytes(content[:-1])
    with pytest.raises(StoreError, match=r"delta\.safetensors of org/toy:v1@x:1 is damaged"):
        store.layer_paths(model)
    history = store.home.variants / "org--toy" / "v1" / "x.json"
    raw = json.loads(history.read_bytes())
    for wrong in ("{", json.dumps({**raw, "name": "other"}), json.dumps({**raw, "current": 2}), json.dumps({"n": 1})):
        history.write_text(wrong)
        with pytest.raises(StoreError, match="the history of org/toy:v1@x is damaged"):
            store.resolve(f"{BASE}@x")
    before = blob_files(store)
    store.import_folder(write_checkpoint(tmp_path / "other", 3.0), "other")
    assert before < blob_files(store), "what a damaged history names is not known, so nothing is swept"
    history.write_text(json.dumps({**raw, "format": 2}))
    with pytest.raises(StoreError, match="has format 2, this Kelm knows 1"):
        store.history(f"{BASE}@x")


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_checkpoint_becomes_the_delta_from_its_base(kind: type[Any], tmp_path: Path) -> None:
    store = Store(tmp_path / "home", packaged=tmp_path / "package")
    store.import_folder(write_checkpoint(tmp_path / "base", 1.0, kind), BASE)
    folder = write_checkpoint(tmp_path / "tuned", 1.0, kind)
    config = json.loads((folder / "config.json").read_text()) | {"transformers_version": "9", "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["a.weight"][1, 2] = 7
    tensors["c.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    version = store.add_version(BASE, "x", layer=folder)
    assert version.kind == "mixed" and version.parent == 0 and version.overrides == {}
    (layer,) = store.layer_paths(store.resolve(f"{BASE}@x"))
    made = load_file(layer["delta.safetensors"])
    assert set(made) == {"a.weight.indices", "a.weight.values", "c.weight.delta"}
    assert made["a.weight.indices"].tolist() == [5] and made["a.weight.values"].tolist() == [6]
    store.add_version(BASE, "x", layer=delta(store, tmp_path / "d", sparse(1)))
    assert store.add_version(BASE, "x", layer=folder).layers == version.layers, "it lies on the base, not on version 2"
    with pytest.raises(InvalidRequest, match="its parent is 0, got 2"):
        store.add_version(BASE, "x", layer=folder, parent=2)
    with pytest.raises(InvalidRequest, match="nothing differs from the base"):
        store.add_version(BASE, "y", layer=tmp_path / "base")


def test_which_files_beside_a_layer_stand_in_for_the_bases(store: Store, tmp_path: Path) -> None:
    base = store.paths(store.resolve(BASE))
    folder = write_checkpoint(tmp_path / "tuned")
    assert set(overrides_in(folder, base)) == {"config.json", "tokenizer.json"} - {"config.json"}
    for more, taken in (({"transformers_version": "9", "dtype": "float16"}, False), ({"id2label": {"0": "a"}}, True)):
        config = json.loads((tmp_path / "base" / "config.json").read_text()) | more
        (folder / "config.json").write_text(json.dumps(config))
        assert ("config.json" in overrides_in(folder, base)) == taken
    store.add_version(BASE, "x", overrides=overrides_in(folder, base))
    assert set(store.resolve(f"{BASE}@x").version.overrides) == {"config.json"}, "the tokenizer is the base's own"
    (folder / "config.json").write_text("[")
    with pytest.raises(ModelFormatError, match=r"config\.json: is not JSON"):
        overrides_in(folder, base)
