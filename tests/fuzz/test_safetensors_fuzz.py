"""What the header reader accepts is a subset of what the ``safetensors`` package accepts, and means the same."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, deserialize

from kelm import limits
from kelm.errors import ModelFormatError
from kelm.store.safetensors import DTYPE_BYTES, read_header

ODD_VALUES: list[Any] = [
    *(-1, 0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**40),
    *(1.0, 0.5, 1e3, float("nan"), True, None, "", "F32", "\ud800", "é", [], [0], {}, {"a": "b"}),
]
ODD_TEXTS = ["-0", "1e2", "1.0", "00", "+1", "NaN", "Infinity", '"\\ud800"', '"\\u0000"', "null", "[[[[]]]]", "1 2"]


def valid(chance: random.Random) -> tuple[list[tuple[str, Any]], int]:
    """A header as key-value pairs, so that keys can be doubled, and the size of its data."""
    end, pairs = 0, []
    for number in range(chance.randint(0, 4)):
        dtype = chance.choice(list(DTYPE_BYTES))
        shape = [chance.choice([0, 1, 2, 3, 5]) for _ in range(chance.randint(0, 3))]
        size = DTYPE_BYTES[dtype]
        for dimension in shape:
            size *= dimension
        pairs.append((f"t{number}", {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}))
        end += size
    if chance.random() < 0.4:
        pairs.append(("__metadata__", {"format": "pt"}))
    chance.shuffle(pairs)
    return pairs, end


def mutate_pairs(chance: random.Random, pairs: list[tuple[str, Any]]) -> None:
    kind = chance.randrange(7)
    if not pairs or kind == 0:
        pairs.append((chance.choice(["x", "", "__metadata__", "\u00e9", "\ud800"]), chance.choice(ODD_VALUES)))
        return
    at = chance.randrange(len(pairs))
    name, entry = pairs[at]
    if kind == 1:
        pairs.append((name, entry))
    elif kind == 2:
        del pairs[at]
    elif kind == 3:
        pairs[at] = (name, chance.choice(ODD_VALUES))
    elif isinstance(entry, dict) and "dtype" in entry:
        mutate_tensor(chance, entry)


def mutate_tensor(chance: random.Random, entry: dict[str, Any]) -> None:
    field = chance.choice(["dtype", "shape", "data_offsets", "extra"])
    if chance.random() < 0.3 or field == "extra":
        entry[field] = chance.choice(ODD_VALUES)
    elif field == "dtype":
        entry["dtype"] = chance.choice([*DTYPE_BYTES, "F4", "C64", "f32", "F8_E8M0"])
    elif entry.get(field):
        at = chance.randrange(len(entry[field]))
        old = entry[field][at]
        entry[field][at] = chance.choice([old + 1, old - 1, *ODD_VALUES]) if isinstance(old, int) else 0
    if chance.random() < 0.1:
        entry.pop(chance.choice(list(entry)))


def as_text(pairs: list[tuple[str, Any]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"


def mutate_text(chance: random.Random, text: str) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        numbers = [i for i, letter in enumerate(text) if letter.isdigit()]
        if numbers:
            at = chance.choice(numbers)
            text = text[:at] + chance.choice(ODD_TEXTS) + text[at + 1 :]
    elif kind == 1:
        text = chance.choice([" ", "\n", "\ufeff", "[", "\0"]) + text
    elif kind == 2:
        text += chance.choice([" ", "   \n\t", "x", "\0", "{}"])
    elif kind == 3:
        text = text.replace(",", chance.choice([",,", ", ", ";"]), 1)
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    if kind == 4:
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(raw)


def mutant(chance: random.Random) -> bytes:
    pairs, data_bytes = valid(chance)
    for _ in range(chance.choice([0, 0, 1, 1, 2])):
        mutate_pairs(chance, pairs)
    text = as_text(pairs)
    header = mutate_text(chance, text) if chance.random() < 0.4 else text.encode("utf-8", "surrogatepass")
    length = len(header)
    if chance.random() < 0.05:
        length = chance.choice([0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1])
    raw = struct.pack("<Q", length % 2**64) + header + bytes(data_bytes)
    if chance.random() < 0.1:
        raw = raw[: chance.randrange(len(raw))] if chance.random() < 0.5 else raw + b"\0"
    return raw


def ours(path: Path) -> dict[str, tuple[str, tuple[int, ...], int]] | None:
    try:
        header = read_header(path)
    except ModelFormatError as error:
        assert error.message.startswith(path.name + ": ") and error.param and len(error.message) < 1000
        return None
    return {name: (info.dtype, info.shape, info.end - info.begin) for name, info in header.tensors.items()}


def theirs(raw: bytes) -> dict[str, tuple[str, tuple[int, ...], int]] | None:
    try:
        tensors = deserialize(raw)
    except SafetensorError:
        return None
    return {name: (info["dtype"], tuple(info["shape"]), len(info["data"])) for name, info in tensors}


@pytest.mark.parametrize("seed", range(8))
def test_accepted_files_are_a_subset(seed: int, tmp_path: Path) -> None:
    chance, path = random.Random(seed), tmp_path / "x.safetensors"
    accepted = only_theirs = 0
    for _ in range(1500):
        raw = mutant(chance)
        path.write_bytes(raw)
        mine, reference = ours(path), theirs(raw)
        assert mine is None or mine == reference, raw
        accepted += mine is not None
        only_theirs += mine is None and reference is not None
    assert accepted > 300, "the mutator must leave enough files valid"
    assert only_theirs < accepted / 4, "too strict for what people have"


def write(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


F32 = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'


@pytest.mark.parametrize(
    ("header", "data_bytes", "words"),
    [
        (f'{{"a":{F32 % (0, 8)},"b":{F32 % (12, 20)}}}', 20, ["b.data_offsets", "gap after 'a'"]),
        (f'{{"a":{F32 % (0, 8)},"b":{F32 % (4, 12)}}}', 12, ["b.data_offsets", "overlaps 'a'"]),
        (f'{{"a":{F32 % (4, 12)}}}', 12, ["a.data_offsets", "gap after 'the start'"]),
        (f'{{"a":{F32 % (0, 8)}}}', 9, ["data", "8 bytes", "has 9"]),
        (f'{{"a":{F32 % (0, 8)}}}', 7, ["data", "8 bytes", "has 7"]),
        (f'{{"a":{F32 % (0, 12)}}}', 12, ["a.data_offsets", "span 12", "takes 8"]),
        (f'{{"a":{F32 % (0, 8)},"a":{F32 % (0, 8)}}}', 8, ["header", "'a' twice"]),
        ('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, ["'dtype' twice"]),
        ('{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}', 8, ["a.dtype", "'F33'"]),
        ('{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,8]}}', 8, ["a.shape"]),
        ('{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', 8, ["'-2'"]),
        ('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,8]}}', 8, ["a.shape"]),
        ('{"__metadata__":{"a":1}}', 0, ["__metadata__"]),
        ("[]", 0, ["header", "'{'"]),
        ("{" * 1_000_000, 0, ["header", "not JSON"]),
        ('{"a":' + "[" * 1_000_000, 0, ["header", "not JSON"]),
    ],
)
def test_the_file_and_the_field_are_named(header: str, data_bytes: int, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as caught:
        read_header(write(tmp_path / "bad.safetensors", header.encode(), bytes(data_bytes)))
    assert all(word in caught.value.message for word in ["bad.safetensors: ", *words]), caught.value.message


def test_bounds_are_checked_before_reading(tmp_path: Path) -> None:
    huge = tmp_path / "huge.safetensors"
    write(huge, b"{}", length=int(limits.SAFETENSORS_HEADER_BYTES.most) + 1)
    with huge.open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse: reading it would be noticed
    with pytest.raises(ModelFormatError, match="header size"):
        read_header(huge)
    many = b"{" + b",".join(b'"%d":0' % i for i in range(int(limits.SAFETENSORS_TENSORS.most) + 1)) + b"}"
    with pytest.raises(ModelFormatError, match="names 100001 tensors"):
        read_header(write(tmp_path / "many.safetensors", many))
