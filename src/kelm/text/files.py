"""Reads a checkpoint's small files: bounded, and malformed content is an error that names file and field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kelm.errors import ModelFormatError
from kelm.limits import CONFIG_BYTES, TOKENIZER_BYTES, Bound

Files = Mapping[str, str]
"""Name inside the checkpoint ('tokenizer.json') -> absolute path of the blob."""
T = TypeVar("T")


def read_bytes(files: Files, name: str) -> bytes | None:
    """The file's bytes, or None when the checkpoint has no such file. Raises ModelFormatError over the bound."""
    path = files.get(name)
    if path is None:
        return None
    bound = _bound(name)
    try:
        with Path(path).open("rb") as file:
            data = file.read(int(bound.most) + 1)
    except OSError as error:
        raise ModelFormatError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > bound.most:
        raise ModelFormatError(f"{name} is larger than the bound of {bound.most:.0f} bytes")
    return data


def read_text(files: Files, name: str) -> str | None:
    """The file as UTF-8 text, or None when there is no such file."""
    data = read_bytes(files, name)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{name} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None


def read_json(files: Files, name: str) -> dict[str, Any]:
    """The file as a JSON object; empty when there is no such file."""
    data = read_bytes(files, name)
    return {} if data is None else parse_json(data, name, dict[str, Any])


def parse_json(data: bytes | str, name: str, kind: type[T]) -> T:
    """JSON of a known shape. Raises ModelFormatError naming ``name`` and the field (``$.a[3].b``)."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFormatError(f"{name} is malformed: {str(error)[:200]}") from None


def _bound(name: str) -> Bound:
    return TOKENIZER_BYTES if name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt") else CONFIG_BYTES
