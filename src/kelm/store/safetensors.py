"""A bounded reader of safetensors headers; everything is checked before a byte of a tensor is looked at.

Format (https://github.com/huggingface/safetensors, "Format"):

    0          8                  8 + n                               end of file
    ├──────────┼──────────────────┼───────────────────────────────────┤
    │ n, u64le │ JSON header      │ tensors, without gap or overlap   │
    └──────────┴──────────────────┴───────────────────────────────────┘

What is accepted here is a subset of what the ``safetensors`` package accepts: no unknown fields, no duplicate keys, no
sub-byte types.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Never

from kelm import limits
from kelm.errors import ModelFormatError

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
MAX_DIMENSION = 1 << 40
MAX_RANK = 64


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """``begin`` and ``end`` are byte offsets from Header.data_start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. Tensor t's bytes are file[data_start + t.begin : data_start + t.end]."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def read_header(path: str | os.PathLike[str], *, name: str | None = None) -> Header:
    """Read and check the header of one file. ``name``: what to call the file in errors (default: its last part).

    Raises ModelFormatError naming the file and the field.
    """
    path = Path(path)
    fail = _Failure(name or path.name)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            raw = _header_bytes(stream, size, fail)
    except OSError as error:
        fail("file", f"can't be read: {error.strerror}")
    return _parse(raw, size - 8 - len(raw), fail)


class _Failure:
    """Raises ModelFormatError about one file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, field: str, problem: str) -> Never:
        field = field if field.isprintable() else ascii(field)
        field = field if len(field) <= 200 else field[:197] + "..."
        raise ModelFormatError(f"{self.file}: {field}: {problem}", param=field)


def _header_bytes(stream: BinaryIO, size: int, fail: _Failure) -> bytes:
    prefix = stream.read(8)
    if len(prefix) < 8:
        fail("header size", f"the file has {size} bytes, a safetensors file has at least 8")
    length, most = int.from_bytes(prefix, "little"), int(limits.SAFETENSORS_HEADER_BYTES.most)
    if not 2 <= length <= most:
        fail("header size", f"must be between 2 and {most} bytes, got {length}")
    if length > size - 8:
        fail("header size", f"{length} bytes do not fit a file of {size} bytes; is it cut off?")
    raw = stream.read(length)
    if len(raw) != length:
        fail("header", "the file changed while it was read")
    return raw


def _parse(raw: bytes, data_bytes: int, fail: _Failure) -> Header:
    entries = _json(raw, fail)
    metadata = _metadata(entries.pop("__metadata__", {}), fail)
    most = int(limits.SAFETENSORS_TENSORS.most)
    if len(entries) > most:
        fail("header", f"names {len(entries)} tensors, at most {most} are read")
    if "" in entries:
        fail("header", "names a tensor ''")
    tensors = {name: _tensor(name, entry, fail) for name, entry in entries.items()}
    _check_cover(tensors, data_bytes, fail)
    return Header(tensors, metadata, 8 + len(raw))


def _json(raw: bytes, fail: _Failure) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        fail("header", "must start with '{'")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            fail("header", f"has the key {_shown(counts.most_common(1)[0][0])} twice")
        return found

    def natural(text: str) -> int:
        if text.startswith("-") or len(text) > 19:
            fail("header", f"holds the number {_shown(text)}, only natural numbers below 2**63 belong there")
        return int(text)

    def refused(text: str) -> Never:
        fail("header", f"holds the number {_shown(text)}, only natural numbers belong there")

    try:
        text = raw.decode("utf-8")
        parsed = json.loads(
            text, object_pairs_hook=unique, parse_int=natural, parse_float=refused, parse_constant=refused
        )
        if "\\u" in text:
            _no_surrogates(parsed)
    except (ValueError, RecursionError) as error:
        fail("header", f"is not JSON: {str(error) or type(error).__name__}")
    assert isinstance(parsed, dict)  # it starts with '{'
    return parsed


def _no_surrogates(value: Any) -> None:
    """JSON may escape half a character; nothing that reads UTF-8 could name such a tensor. Raises ValueError."""
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _no_surrogates(key)
            _no_surrogates(inner)
    elif isinstance(value, list):
        for inner in value:
            _no_surrogates(inner)


def _metadata(value: Any, fail: _Failure) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        fail("__metadata__", "must map text to text")
    return value


def _tensor(name: str, entry: Any, fail: _Failure) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        fail(name, "must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        fail(f"{name}.dtype", f"must be one of {', '.join(DTYPE_BYTES)}, got {_shown(dtype)}")
    if not _naturals(shape) or len(shape) > MAX_RANK or any(size > MAX_DIMENSION for size in shape):
        fail(f"{name}.shape", f"must be at most {MAX_RANK} sizes of at most {MAX_DIMENSION}, got {_shown(shape)}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fail(f"{name}.data_offsets", f"must be [begin, end] with begin <= end, got {_shown(offsets)}")
    wanted = DTYPE_BYTES[dtype]
    for size in shape:
        wanted *= size
        if wanted >= 1 << 63:
            fail(f"{name}.shape", f"{_shown(shape)} is more than any file holds")
    if offsets[1] - offsets[0] != wanted:
        fail(f"{name}.data_offsets", f"span {offsets[1] - offsets[0]} bytes, {dtype} of shape {shape} takes {wanted}")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _check_cover(tensors: dict[str, TensorInfo], data_bytes: int, fail: _Failure) -> None:
    """The tensors, in the order of their offsets, must cover the data exactly."""
    end, before = 0, "the start"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != end:
            problem = "leaves a gap after" if info.begin > end else "overlaps"
            fail(f"{name}.data_offsets", f"begin {info.begin} {problem} {_shown(before)}, which ends at {end}")
        end, before = info.end, name
    if end != data_bytes:
        fail("data", f"the tensors take {end} bytes, the file has {data_bytes}; is it cut off or padded?")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
