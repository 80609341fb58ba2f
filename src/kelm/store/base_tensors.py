"""What a layer may lie on: the names and shapes of a base's tensors, those that a parent version added among them."""

from __future__ import annotations

from collections.abc import Mapping

from kelm.errors import UnsupportedModel
from kelm.store.tensors import TensorFile

Shape = tuple[int, ...]
_SCALE = ".weight_scale"
"""Beside a quantized weight (compressed-tensors)."""


class BaseTensors:
    """``name`` and ``digest`` of the base, for errors. ``reshaped``: a config.json stands in for the base's, so that
    tensors may be new or have another shape; the model's loader judges those."""

    def __init__(self, name: str, digest: str, shapes: Mapping[str, Shape], *, reshaped: bool = False) -> None:
        self.name, self.digest, self._reshaped = name, digest, reshaped
        self._shapes = dict(shapes)
        self._quantized = {known.removesuffix(_SCALE) for known in shapes if known.endswith(_SCALE)}
        self._by_end: dict[str, list[str]] = {}
        for known in shapes:
            self._by_end.setdefault(known.partition(".")[2], []).append(known)

    def counterpart(self, tensor: str) -> str | None:
        """The base's name of a tensor that another class of the same model may call ``bert.x`` where the base has
        ``x``, or the other way round; None when the base has none."""
        for name in (tensor, tensor.partition(".")[2]):
            if name in self._shapes:
                return name
        longer = self._by_end.get(tensor, [])
        return longer[0] if len(longer) == 1 else None

    def shape(self, tensor: str) -> Shape:
        """Of a tensor that ``counterpart`` found."""
        return self._shapes[tensor]

    def changeable(self, file: TensorFile, tensor: str) -> Shape:
        """Shape of a tensor to which a difference may be added. Raises ModelFormatError when the base has none of that
        name, UnsupportedModel when it is quantized."""
        if tensor not in self._shapes:
            raise file.wrong(tensor, f"is not a tensor of {self.name}")
        self._refuse_quantized(file, tensor)
        return self._shapes[tensor]

    def check_whole(self, file: TensorFile, stored: str, target: str | None) -> None:
        """A tensor that replaces the base's ``target``, or is new (None). Raises as ``changeable``."""
        if target is not None:
            self._refuse_quantized(file, target)
        if self._reshaped:
            return
        if target is None or target not in self._shapes:
            raise file.wrong(
                stored,
                f"is not a tensor of {self.name}; a layer may add one only with a config.json beside it that says "
                "what the model is now (architectures, id2label, ...)",
            )
        shape, got = self._shapes[target], file.tensors[stored].shape
        if got != shape:
            raise file.wrong(stored, f"has the shape {list(got)}, the base's tensor has {list(shape)}")

    def _refuse_quantized(self, file: TensorFile, tensor: str) -> None:
        if tensor.removesuffix(".weight") in self._quantized:
            raise UnsupportedModel(
                f"{file.name}: {tensor} of {self.name} is quantized: only low-rank layers are laid over such weights"
            )
