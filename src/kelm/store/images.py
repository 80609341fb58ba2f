"""Images: a model's weights in the form that the kernels read, in a file that is mapped and never converted.

    images/sha256-<hex>.<precision>/   one folder for each model (its manifest's digest) and precision
        image                          below
        lock                           flocked by the process that packs
        .tmp-<random>                  a file on its way to be ``image``

    0          64          data_start
    ├──────────┼───────────┼──────────┬─────┬──────────┬─────┬─ ...
    │ prelude  │ header    │ extent 0 │ gap │ extent 1 │ gap │
    └──────────┴───────────┴──────────┴─────┴──────────┴─────┴─ ...

    prelude   "KELMIMG\\n", length of the header (u64le), SHA-256 of the header, zeros
    header    JSON, struct Header below
    extent    tensors of one layer, on whole pages; each tensor on a line of 64 bytes, zeros between

An image says what it was made of and in which layout. Anything else than the one that is wanted is as good as none: the
file can always be made anew. Opening checks the header to its last field, and reads no tensor; ``verify`` compares what
is there with its checksums. What the kinds of tensors are is known to whoever packs (models/packing.py).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NoReturn

import msgspec

from kelm.errors import StoreError
from kelm.limits import IMAGE_EXTENTS, IMAGE_HEADER_BYTES, IMAGE_TENSORS
from kelm.store.atomic import TEMP_PREFIX, check_space, disk_errors, locked, replacing, sync_folder
from kelm.store.manifest import Digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
PAGE = 1 << 16
"""Bytes; the largest page of any CPU that Kelm runs on."""
LINE = 64

_MAGIC = b"KELMIMG\n"
_NO_SUM = "0" * 64
_MOST_BYTES = 1 << 50

_Bytes = Annotated[int, msgspec.Meta(ge=0, le=_MOST_BYTES)]
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
    def data_bytes(self) -> int:
        return self.extents[-1].end if self.extents else 0

    def encoded(self) -> bytes:
        """As long for one sum as for another."""
        return msgspec.json.encode(self)

    def data_start(self) -> int:
        return _whole(LINE + len(self.encoded()), PAGE)

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
            begin = _whole(places[-1].end if places else 0, LINE)
            places.append(TensorPlace(one.name, one.kind, one.shape, begin, one.bytes))
        begin = _whole(laid[-1].end if laid else 0, PAGE)
        laid.append(Extent(name, begin, places[-1].end if places else 0, _NO_SUM, tuple(places)))
    return Header(FORMAT, label, tuple(laid))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the image with a label is, if it is there. ``images``: home.Home.images."""

    images: Path
    label: Label

    @property
    def folder(self) -> Path:
        return self.images / f"{self.label.model.replace(':', '-')}.{self.label.precision}"

    @property
    def path(self) -> Path:
        return self.folder / "image"

    def __str__(self) -> str:
        return f"the {self.label.precision} image of {self.label.model[:19]}"

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the right to write this image, once nobody else does. What a dead holder left is removed."""
        with disk_errors(f"{self} could not be packed"):
            self.images.mkdir(exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            sync_folder(self.images)
            with locked(self.folder / "lock"):
                for temp in self.folder.glob(f"{TEMP_PREFIX}*"):
                    temp.unlink(missing_ok=True)
                yield

    @contextmanager
    def writing(self, header: Header) -> Iterator[Writer]:
        """Within a turn: the image is there when the block ends well, and otherwise what was there before.

        Raises StoreError: no space, or the disk refuses.
        """
        check_space(self.folder, header.file_bytes())
        with replacing(self.path) as stream:
            os.posix_fallocate(stream.fileno(), 0, header.file_bytes())
            writer = Writer(stream, header)
            yield writer
            writer.finish()


class Writer:
    """Takes the extents in any order, each once, and writes the header when all are there."""

    def __init__(self, stream: BinaryIO, header: Header) -> None:
        self._stream, self._header = stream, header
        self._start = header.data_start()
        self._done: dict[str, Extent] = {}

    def write(self, extent: Extent, data: NDArray[np.uint8]) -> None:
        assert data.nbytes == extent.bytes, extent.name
        view = data.data
        self._done[extent.name] = msgspec.structs.replace(extent, sum=hashlib.sha256(view).hexdigest())
        self._stream.seek(self._start + extent.begin)
        self._stream.write(view)

    def finish(self) -> None:
        extents = tuple(self._done[extent.name] for extent in self._header.extents)
        raw = msgspec.structs.replace(self._header, extents=extents).encoded()
        prelude = _MAGIC + len(raw).to_bytes(8, "little") + hashlib.sha256(raw).digest()
        self._stream.seek(0)
        self._stream.write(prelude.ljust(LINE, b"\0") + raw)


class ImageFile:
    """An image, mapped read-only; its arrays live as long as they are held, whatever becomes of the file's name."""

    def __init__(self, place: Place) -> None:
        """Raises StoreError when there is no whole image of this label."""
        self._place = place
        try:
            with place.path.open("rb") as stream:
                self.size_bytes = os.fstat(stream.fileno()).st_size
                self.header, self._start = self._read_header(stream)
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            self._wrong(f"can't be read: {error.strerror}")

    def array(self, extent: Extent, tensor: TensorPlace) -> NDArray[np.uint8]:
        """A tensor's bytes, where they lie in the file."""
        import numpy as np

        return np.frombuffer(self._map, np.uint8, tensor.bytes, self._start + extent.begin + tensor.begin)

    def verify(self) -> None:
        """Read all of it. Raises StoreError naming the first extent that is not what was written."""
        for extent in self.header.extents:
            begin = self._start + extent.begin
            with memoryview(self._map) as view, view[begin : begin + extent.bytes] as data:
                if hashlib.sha256(data).hexdigest() != extent.sum:
                    self._wrong(f"{extent.name} is not what was written")

    def _read_header(self, stream: BinaryIO) -> tuple[Header, int]:
        """And data_start."""
        prelude = stream.read(LINE)
        length = int.from_bytes(prelude[8:16], "little")
        if not prelude.startswith(_MAGIC) or len(prelude) < LINE:
            self._wrong("does not begin as an image does")
        if not IMAGE_HEADER_BYTES.least <= length <= min(IMAGE_HEADER_BYTES.most, self.size_bytes - LINE):
            self._wrong(f"has a header of {length} bytes and {self.size_bytes} in all")
        raw = stream.read(length)
        if hashlib.sha256(raw).digest() != prelude[16:48]:
            self._wrong("has a header that is not what was written")
        try:
            header = msgspec.json.decode(raw, type=Header)
        except (msgspec.DecodeError, RecursionError) as error:
            self._wrong(f"has a header that can't be read ({error})")
        start = _whole(LINE + len(raw), PAGE)
        self._check(header, start)
        return header, start

    def _check(self, header: Header, start: int) -> None:
        if header.format != FORMAT or header.label != self._place.label:
            self._wrong(f"has format {header.format} and is of {header.label}")
        if len(header.extents) > IMAGE_EXTENTS.most or _tensors(header) > IMAGE_TENSORS.most:
            self._wrong(f"names {len(header.extents)} extents and {_tensors(header)} tensors")
        end = 0
        for extent in header.extents:
            if extent.begin != _whole(end, PAGE) or extent.bytes != max((t.end for t in extent.tensors), default=0):
                self._wrong(f"has {extent.name} out of place")
            end = extent.end
            self._check_tensors(extent)
        if self.size_bytes != start + end:
            self._wrong(f"has {self.size_bytes} bytes instead of {start + end}")

    def _check_tensors(self, extent: Extent) -> None:
        end = 0
        for tensor in extent.tensors:
            if tensor.begin != _whole(end, LINE) or prod(tensor.shape) > _MOST_BYTES:
                self._wrong(f"has {tensor.name} out of place")
            end = tensor.end

    def _wrong(self, problem: str) -> NoReturn:
        raise StoreError(f"{self._place} {problem}; it is packed again when the model is loaded")


def found(images: Path, model: str) -> dict[str, int]:
    """Precision -> bytes on the disk, of every image of a model; none of another layout is told apart."""
    paths = sorted(images.glob(f"{model.replace(':', '-')}.*/image"))
    return {path.parent.name.partition(".")[2]: path.stat().st_size for path in paths}


def sweep(images: Path, models: Collection[str]) -> None:
    """Remove every image of a model whose digest is not in ``models``. One that is being packed goes, too, and its
    packing fails; one that is mapped stays with those who have it. The caller holds the store's lock."""
    keep = {model.replace(":", "-") for model in models}
    for folder in images.iterdir():
        if folder.name.partition(".")[0] not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def _tensors(header: Header) -> int:
    return sum(len(extent.tensors) for extent in header.extents)


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit
