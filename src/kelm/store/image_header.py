"""What an image says of itself (images.py draws the file): what it is of, and where each tensor lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from kelm.store.manifest import Digest

FORMAT = 1
PAGE = 1 << 16
"""Bytes; the largest page of any CPU that Kelm runs on."""
LINE = 64

_NO_SUM = "0" * 64
MOST_BYTES = 1 << 50

_Bytes = Annotated[int, msgspec.Meta(ge=0, le=MOST_BYTES)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.]{1,200}\Z")]


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an image is of. ``layout`` names all that its bytes depend on beside the model."""

    model: Digest
    precision: _Name
    layout: _Name


class TensorPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``begin``: bytes from the extent's begin, on a line."""

    name: _Name
    kind: _Name
    shape: Annotated[tuple[_Bytes, ...], msgspec.Meta(max_length=4)]
    begin: _Bytes
    bytes: _Bytes

    @property
    def end(self) -> int:
        return self.begin + self.bytes


class Extent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``begin``: bytes from data_start, on a page. ``sum``: SHA-256 of its bytes."""

    name: _Name
    begin: _Bytes
    bytes: _Bytes
    sum: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    tensors: tuple[TensorPlace, ...]

    @property
    def end(self) -> int:
        return self.begin + self.bytes


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The extents follow one another, each on the first page behind the one before."""

    format: int
    label: Label
    extents: tuple[Extent, ...]

    @property
    def tensors(self) -> tuple[TensorPlace, ...]:
        return tuple(tensor for extent in self.extents for tensor in extent.tensors)

    @property
    def data_bytes(self) -> int:
        return self.extents[-1].end if self.extents else 0

    def encoded(self) -> bytes:
        """As long for one sum as for another."""
        return msgspec.json.encode(self)

    def data_start(self) -> int:
        return whole(LINE + len(self.encoded()), PAGE)

    def file_bytes(self) -> int:
        return self.data_start() + self.data_bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor that is to go into an image."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes: int


def lay_out(label: Label, extents: Mapping[str, Sequence[Wanted]]) -> Header:
    """Where everything goes; the sums are not known yet."""
    laid: list[Extent] = []
    for name, tensors in extents.items():
        places: list[TensorPlace] = []
        for one in tensors:
            begin = whole(places[-1].end if places else 0, LINE)
            places.append(TensorPlace(one.name, one.kind, one.shape, begin, one.bytes))
        begin = whole(laid[-1].end if laid else 0, PAGE)
        laid.append(Extent(name, begin, places[-1].end if places else 0, _NO_SUM, tuple(places)))
    return Header(FORMAT, label, tuple(laid))


def whole(size: int, unit: int) -> int:
    """The least multiple of ``unit`` that is not less."""
    return -(-size // unit) * unit
