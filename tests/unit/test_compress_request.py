"""What `kelm compress` refuses before anything is loaded, and what it calls its results."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kelm.cli.compressing import read_layers
from kelm.compress import request
from kelm.errors import InvalidRequest, ModelNotFound
from kelm.store import Store
from kelm.store.compression import FILE, Compression, Side, encode
from kelm.testing.checkpoints import write_llama
from kelm.wire.jobs import Compress

SIDE = Side(precision="float32", layers=2, parameters=3, size_bytes=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """``tiny``, ``other``, and ``tiny:int8``, made of ``tiny``."""
    folder = tmp_path_factory.mktemp("models")
    store = Store(folder / "home")
    write_llama(folder / "tiny")
    for name in ("tiny", "other"):
        store.import_folder(folder / "tiny", name)
    made = Compression(source="tiny:latest", source_digest="sha256:0", method="int8", before=SIDE, after=SIDE)
    (folder / "tiny" / FILE).write_bytes(encode(made))
    store.import_folder(folder / "tiny", "tiny:int8")
    return store


def spec(**changes: Any) -> Compress:
    return Compress(**{"model": "tiny", "name": "tiny:new", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "nothing to do: give --bits 8, --bits 4, --drop-layers N or --drop LAYERS"),
        ({"bits": 3}, "--bits must be 8 or 4, got 3"),
        ({"bits": 8, "group": 32}, "--group is for --bits 4"),
        ({"drop": (1,), "group": 32}, "--group is for --bits 4"),
        ({"bits": 4, "group": 16}, "--group must be 32, 64, 128, got 16"),
        ({"drop": (1,), "head": True}, "give --bits too"),
        ({"drop": (1,), "drop_layers": 1}, "not both"),
        ({"drop_layers": -1}, "--drop-layers must be at least 1, got -1"),
        ({"bits": 8, "name": "a/b/c"}, "is not a model name"),
        ({"bits": 8, "model": "tiny@mine"}, "tiny@mine is a variant; kelm compress takes whole models: compress tiny"),
        ({"bits": 8, "name": "tiny@mine"}, "tiny@mine is a variant's name"),
        ({"bits": 8, "name": "tiny"}, "tiny is here already and is not a compressed tiny:latest; take another --name"),
        ({"bits": 8, "name": "tiny:latest"}, "kelm rm tiny"),
        ({"bits": 8, "name": "nano"}, "nano is here already"),
        ({"bits": 8, "model": "other", "name": "tiny:int8"}, "is not a compressed other:latest"),
    ],
)
def test_what_is_refused(changes, words, store):
    with pytest.raises(InvalidRequest) as caught:
        request.check(spec(**changes), store)
    assert words in caught.value.message


def test_an_unknown_model(store):
    with pytest.raises(ModelNotFound, match="did you mean tiny"):
        request.check(spec(model="tinny", bits=8), store)


def test_an_earlier_result_is_replaced(store):
    assert request.check(spec(bits=8, name="tiny:int8"), store).name == "tiny:latest"


@pytest.mark.parametrize(
    ("changes", "config", "words"),
    [
        ({"drop_layers": 5}, {"num_hidden_layers": 6}, "6 layers, of which the first and the last stay; at most 4"),
        ({"drop_layers": 1}, {"n_layer": 2}, "at most 0 can go"),
        ({"drop": (6,)}, {"num_hidden_layers": 6}, "--drop 6: the layers of tiny are 0 to 5"),
        ({"drop": (0, 1)}, {"n_layer": 2}, "--drop names all 2 layers of tiny; one has to stay"),
        ({"bits": 8}, {"num_hidden_layers": 6, "quantization_config": {}}, "tiny is quantized already"),
        ({"drop": (1,)}, {"num_hidden_layers": 6, "quantization_config": {}}, "tiny is quantized already"),
    ],
)  # fmt: skip
def test_what_config_json_rules_out(changes, config, words):
    with pytest.raises(InvalidRequest) as caught:
        request.check_config(spec(**changes), config, None)
    assert words in caught.value.message


def test_a_quantized_model_names_its_source():
    made = Compression(source="big:latest", source_digest="sha256:0", method="int8", before=SIDE, after=SIDE)
    with pytest.raises(InvalidRequest, match=r"made from \(big:latest\)"):
        request.check_config(spec(bits=4), {"quantization_config": {"quant_method": "compressed-tensors"}}, made)


def test_what_fits_is_let_through():
    for changes in ({"drop_layers": 4}, {"drop": (0, 5)}, {"bits": 8}, {"bits": 4, "group": 128}):
        request.check_config(spec(**changes), {"num_hidden_layers": 6}, None)


@pytest.mark.parametrize(
    ("model", "bits", "dropped", "name"),
    [
        ("nano", 8, 0, "nano:int8"),
        ("nano:latest", 4, 0, "nano:int4"),
        ("org/big", None, 2, "org/big:drop2"),
        ("nano", 4, 2, "nano:drop2-int4"),
        ("nano:v1", 8, 0, "nano:v1-int8"),
    ],
)
def test_names(model, bits, dropped, name):
    assert request.default_name(model, bits, dropped) == name


def test_layers_on_the_command_line():
    assert read_layers(None) == () and read_layers("5, 3,3") == (3, 5)
    for text in ("3-5", "a", "1,,2", "-1", "²", "1" * 9):
        with pytest.raises(InvalidRequest, match="--drop must be numbers of layers"):
            read_layers(text)


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"bits": "8"}, {"group": 33}, {"drop_layers": -1}, {"drop": [-1]}])
def test_the_wire_takes_what_the_command_line_sends(wrong):
    sent = msgspec.to_builtins(spec(bits=4, group=64, drop=(3, 5), file="a.txt"))
    assert msgspec.convert(sent, Compress) == spec(bits=4, group=64, drop=(3, 5), file="a.txt")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(sent | wrong, Compress)
