"""What becomes a version: a layer and files from outside, checked against the base, copied, and checked again (a file
may change while it is copied)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from kelm.errors import InvalidRequest, ModelFormatError, StoreError
from kelm.store import adapter, checkpoint, delta
from kelm.store.base_tensors import BaseTensors, Shape
from kelm.store.blobs import Staged, Staging
from kelm.store.folder import Folder
from kelm.store.tensors import TensorFile
from kelm.store.versions import Kind, Layer, Version


class About(TypedDict, total=False):
    """What is said of a version and changes nothing of it. ``evaluation``: figures; ``settings``: how it was made."""

    author: str
    evaluation: dict[str, Any]
    data_digest: str | None
    settings: dict[str, Any]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """``layer``: an adapter's folder, a delta file, or nothing. ``overrides``: file of the checkpoint -> where it
    lies."""

    layer: Path | None
    overrides: Mapping[str, Path]

    def sources(self) -> dict[str, Path]:
        """The layer's files: name in the store -> where it lies. Raises StoreError, ModelFormatError."""
        if self.layer is None:
            return {}
        if self.layer.is_dir():
            folder = Folder(self.layer)
            for name in (adapter.CONFIG, adapter.WEIGHTS):
                folder.open(name).close()  # a link out of the folder is refused
            return {name: folder.root / name for name in (adapter.CONFIG, adapter.WEIGHTS)}
        if not self.layer.is_file():
            raise StoreError(f"there is no file or folder {self.layer}")
        return {delta.FILE: self.layer}


@dataclass(frozen=True, slots=True)
class Draft:
    """Staged and checked; what is left is to name it."""

    kind: Kind
    layer: Mapping[str, Staged]
    overrides: Mapping[str, Staged]

    def staged(self) -> list[Staged]:
        return [*self.layer.values(), *self.overrides.values()]

    def layers(self, parent: Version | None) -> tuple[Layer, ...]:
        below = parent.layers if parent else ()
        if not self.layer:
            return below
        files = {name: copy.blob for name, copy in self.layer.items()}
        return (*below, Layer("low_rank" if self.kind == "low_rank" else "delta", files))


def check(files: Mapping[str, Path], overrides: Mapping[str, Path], base: BaseTensors) -> Kind:
    """Raises ModelFormatError, UnsupportedModel, InvalidRequest; what the version is, when nothing is wrong."""
    allowed = checkpoint.DATA_FILES.keys() - {checkpoint.INDEX}
    for name, path in overrides.items():
        if name not in allowed:
            raise InvalidRequest(f"{name} can't stand in for a file of the base; {', '.join(sorted(allowed))} can")
        checkpoint.check_data(name, path)
    if adapter.CONFIG in files:
        adapter.check(files, base)
        return "low_rank"
    return delta.check(files[delta.FILE], base) if files else "files"


def stage(staging: Staging, addition: Addition, base: BaseTensors, known: Mapping[str, str]) -> Draft:
    """``known``: digests of the base's files; a file that is the base's own is left out. Raises as ``check``."""
    layer = {name: _copy(staging, path) for name, path in addition.sources().items()}
    beside = {name: _copy(staging, path) for name, path in addition.overrides.items()}
    kind = check(_paths(layer), _paths(beside), base)
    return Draft(kind, layer, {name: copy for name, copy in beside.items() if copy.blob.digest != known.get(name)})


def overrides_in(folder: Path) -> dict[str, Path]:
    """The files beside an adapter that stand in for the base's: config.json, a tokenizer and such."""
    names = checkpoint.DATA_FILES.keys() - {checkpoint.INDEX}
    return {name: folder / name for name in sorted(names) if (folder / name).is_file()}


def shapes(files: Mapping[str, str], layers: Iterable[Mapping[str, Path]]) -> dict[str, Shape]:
    """Tensor -> shape: those of a base's safetensors (file name -> path), and those that layers over it brought."""
    found: dict[str, Shape] = {}
    for name, path in files.items():
        if name.endswith(".safetensors"):
            file = TensorFile(path, name)
            found |= {tensor: info.shape for tensor, info in file.tensors.items()} | _packed(file)
    for layer in layers:
        found |= _whole(layer, BaseTensors("", "", found))
    return found


def _packed(file: TensorFile) -> dict[str, Shape]:
    """The weights that packed ones stand for (compressed-tensors): their shape is a tensor."""
    ends = [name.removesuffix("_shape") for name in file.tensors if name.endswith(".weight_shape")]
    return {name: tuple(map(int, file.array(f"{name}_shape"))) for name in ends}


def _whole(layer: Mapping[str, Path], below: BaseTensors) -> dict[str, Shape]:
    if delta.FILE in layer:
        file = TensorFile(layer[delta.FILE], delta.FILE)
        names = {change.target: change.target for change in delta.changes(file) if change.kind == "tensors"}
    else:
        file = TensorFile(layer[adapter.WEIGHTS], adapter.WEIGHTS)
        names = dict(adapter.read(layer[adapter.CONFIG].read_bytes(), file).whole)
    return {below.counterpart(name) or name: file.tensors[stored].shape for name, stored in names.items()}


def _copy(staging: Staging, path: Path) -> Staged:
    with _opened(path) as stream:
        return staging.copy(stream, lambda size: None)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ModelFormatError(f"{path.name}: can't be read: {error.strerror}", param=path.name) from None


def _paths(staged: Mapping[str, Staged]) -> dict[str, Path]:
    return {name: copy.path for name, copy in staged.items()}
