"""A model's weights as the native executor reads them: opened from an image in milliseconds, packed when there is none.

    place(home.images, manifest.digest, "int8")      which image
    open_image(place)                                maps it; StoreError when there is none that can be used
    ready_image(place, source, pool, progress)       the same, and packs it first where there is none

One process packs an image, others that want it wait for it. The file's format is in store/images.py, what goes in is in
packing.py. Knows no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kelm.errors import StoreError
from kelm.models import packing
from kelm.models.packing import VECTOR, Precision, Source
from kelm.ops import packed
from kelm.ops.packed import Packed
from kelm.store import images
from kelm.store.images import Label, Place

if TYPE_CHECKING:
    from kelm.ops.native import Pool

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_LAYOUT = f"slots{packing.LAYOUT}.packed{packed.LAYOUT}"
"""The same on every CPU: the formats are (csrc/packed.hpp)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """Slots by name (models/layout.py), arranged as packing.py says; every array is a read-only map of the file, and
    keeps the map alive."""

    matrices: Mapping[str, Packed]
    vectors: Mapping[str, NDArray[np.float32]]
    size_bytes: int


def place(folder: Path, model: str, precision: Precision) -> Place:
    """``folder``: of all images (store.home.Home.images); ``model``: its manifest's digest."""
    return Place(folder, Label(model, precision, _LAYOUT))


def open_image(where: Place) -> Image:
    """Raises StoreError when there is none, it is of another layout, or it is damaged."""
    file = images.ImageFile(where)
    matrices: dict[str, Packed] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for extent in file.header.extents:
        for tensor in extent.tensors:
            data = file.array(extent, tensor)
            if tensor.kind == VECTOR:
                vectors[tensor.name] = data.view(np.float32).reshape(tensor.shape)
            else:
                outputs, inputs = tensor.shape
                matrices[tensor.name] = Packed(data, outputs, inputs, tensor.kind)  # type: ignore[arg-type]
    return Image(matrices, vectors, file.size_bytes)


def ready_image(where: Place, source: Source, pool: Pool, progress: Progress | None = None) -> Image:
    """The image, packed now if there is none that can be used; waits while another process packs it.

    Raises StoreError: no space, or the disk refuses; UnsupportedModel: a weight does not fit the precision.
    """
    found = _usable(where)
    if found is None:
        with where.turn():
            found = _usable(where)
            if found is None:
                _pack(where, source, pool, progress or (lambda done, total: None))
                found = open_image(where)
    return found


def build_image(where: Place, source: Source, pool: Pool, progress: Progress | None = None) -> Image:
    """Pack it whatever is there. Raises as ``ready_image``."""
    with where.turn():
        _pack(where, source, pool, progress or (lambda done, total: None))
        return open_image(where)


def _usable(where: Place) -> Image | None:
    if not where.path.exists():
        return None
    try:
        return open_image(where)
    except StoreError as error:
        log.warning("image_unusable reason=%r", error.message)
        return None


def _pack(where: Place, source: Source, pool: Pool, progress: Progress) -> None:
    """Layer by layer; one is written while the next is packed."""
    header = images.lay_out(where.label, source.wanted(where.label.precision))  # type: ignore[arg-type]
    done = 0
    with where.writing(header) as writer, ThreadPoolExecutor(1) as behind:
        writing = None
        for extent in header.extents:
            data = packed.empty(extent.bytes)
            end = 0
            for tensor in extent.tensors:
                data[end : tensor.begin] = 0
                end = tensor.end
                source.pack(tensor, pool, data[tensor.begin : end])
            if writing is not None:
                writing.result()
            writing = behind.submit(writer.write, extent, data)
            done += extent.bytes
            progress(done, header.data_bytes)
        if writing is not None:
            writing.result()
