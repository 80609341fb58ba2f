"""Which decoders the compiled kernels run, and how one is made from a checkpoint's files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kelm.errors import StoreError
from kelm.models.batch import KVGroup
from kelm.models.blueprint import Blueprint, Files, known_dtype, read_blueprint
from kelm.models.graph.build import whole_head
from kelm.models.graph.plan import PASSES, make_plan
from kelm.models.images import place, ready_image
from kelm.models.native.decoder import NativeDecoder, kv_groups
from kelm.models.native.weights import Progress, Weights, pack, size_bytes
from kelm.models.packing import Precision, Source
from kelm.models.tensor_index import TensorIndex
from kelm.ops import native
from kelm.ops.packed import FORMATS
from kelm.ops.step import HEAD_DIM_MOST, KV_ITEM_BYTES

log = logging.getLogger(__name__)

PRECISIONS: dict[str, Precision] = {"float32": "float32", "bfloat16": "bfloat16"}
_FORMATS = {"float32": "float32", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class NativeOutline:
    """A checked decoder whose weights have not been read. ``dtype``: of what isn't quantized, and of KV."""

    blueprint: Blueprint[TensorIndex]
    dtype: str

    @property
    def kv_item_bytes(self) -> int:
        return KV_ITEM_BYTES[self.dtype]

    @property
    def groups(self) -> tuple[KVGroup, ...]:
        return kv_groups(self.blueprint.spec)

    def obstacle(self) -> str:
        """Why the kernels can't run it, or nothing."""
        if not native.available():
            return "this install has no compiled kernels"
        if _FORMATS.get(self.dtype) not in FORMATS:
            return f"there are no kernels for {self.dtype}"
        if whole_head(self.blueprint.spec.head_dim) > HEAD_DIM_MOST:
            return f"heads of {self.blueprint.spec.head_dim} dimensions are wider than {HEAD_DIM_MOST}"
        return ""


def outline(files: Files, dtype: str) -> NativeOutline:
    """Raises UnsupportedModel when no decoder family can run it, ModelFormatError when a file is malformed."""
    known_dtype(dtype)
    blueprint = read_blueprint(files, lambda files, quantization: TensorIndex(files, quantization=quantization))
    return NativeOutline(blueprint, blueprint.check(dtype))


@dataclass(frozen=True, slots=True)
class Images:
    """Where packed weights are kept: the folder of all images, and the digest of the model's manifest."""

    folder: Path
    model: str


def load_native(
    found: NativeOutline,
    pool: native.Pool,
    progress: Progress,
    passes: tuple[str, ...] = PASSES,
    images: Images | None = None,
) -> NativeDecoder:
    """Maps the model's image, which is packed now if there is none; packs in memory without ``images``, or where none
    can be written. Raises UnsupportedModel where a weight does not fit the precision."""
    blueprint = found.blueprint
    weights = _weights(found, pool, progress, images)
    plan = make_plan(blueprint.spec, passes, embedding_scale(blueprint.spec.embedding_scale, found.dtype))
    info = blueprint.info(found.dtype, size_bytes(weights, [*weights.matrices, *weights.vectors]))
    return NativeDecoder(blueprint.spec, plan, weights, info, pool)


def _weights(found: NativeOutline, pool: native.Pool, progress: Progress, images: Images | None) -> Weights:
    blueprint, precision = found.blueprint, PRECISIONS[found.dtype]
    source = Source(blueprint.index, blueprint.slots(), blueprint.spec.gated)
    if images is not None:
        try:
            return ready_image(place(images.folder, images.model, precision), source, pool, progress)
        except StoreError as error:
            log.warning("image_not_kept reason=%r", error.message)
    return pack(source, precision, pool, progress)


def embedding_scale(scale: float, dtype: str) -> float:
    """As the table's precision has it: Gemma was trained so."""
    if dtype == "float32":
        return float(np.float32(scale))
    bits = np.float32(scale).view(np.uint32)
    return float(((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32))
