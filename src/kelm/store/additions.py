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
from kelm.store.difference import write_checkpoint_delta
from kelm.store.folder import Folder
from kelm.store.manifest import Manifest
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
    """``layer``: an adapter's folder, a checkpoint's folder, a delta file, or nothing. ``overrides``: file of the
    checkpoint -> where it lies."""

    layer: Path | None
    overrides: Mapping[str, Path]

    def parent(self, asked: int | None) -> int | None:
        """The version that the layer lies on, when nobody says: an adapter and a checkpoint were made from the base
        itself (0), a delta is for what is published (None). Raises InvalidRequest for a checkpoint over a version."""
        if self.layer is None or not self.layer.is_dir():
            return asked
        if asked and not (self.layer / adapter.CONFIG).exists():
            raise InvalidRequest(f"a checkpoint replaces what lies over the base: its parent is 0, got {asked}")
        return asked or 0

    def size_bytes(self) -> int:
        """Of what would be copied, at most."""
        layer = () if self.layer is None else self.layer.glob("*.safetensors") if self.layer.is_dir() else (self.layer,)
        return sum(path.stat().st_size for path in (*layer, *self.overrides.values()) if path.is_file())

    def sources(self, work: Path, base: BaseTensors, files: Mapping[str, str]) -> dict[str, Path]:
        """The layer's files: name in the store -> where it lies. Of a checkpoint, the delta from the base's ``files``
        is written into the folder ``work``. Raises StoreError, ModelFormatError, InvalidRequest."""
        if self.layer is None:
            return {}
        if self.layer.is_dir():
            folder = Folder(self.layer)
            if not (folder.root / adapter.CONFIG).exists():
                return {delta.FILE: _from_checkpoint(folder, work / delta.FILE, base, files)}
            for name in (adapter.CONFIG, adapter.WEIGHTS):
                folder.open(name).close()  # a link out of the folder is refused
            return {name: folder.root / name for name in (adapter.CONFIG, adapter.WEIGHTS)}
        if not self.layer.is_file():
            raise StoreError(f"there is no file or folder {self.layer}")
        return {delta.FILE: self.layer}

    def below(
        self, base: Manifest, files: Mapping[str, str], parent: Version | None, layers: Iterable[Mapping[str, Path]]
    ) -> BaseTensors:
        """What it will lie on: ``base`` with its ``files``, and ``parent`` with its ``layers``."""
        reshaped = checkpoint.CONFIG in self.overrides or (parent is not None and checkpoint.CONFIG in parent.overrides)
        return BaseTensors(base.name, base.digest, shapes(files, layers), reshaped=reshaped)

    def stage(self, staging: Staging, sources: Mapping[str, Path], below: BaseTensors, base: Manifest) -> Draft:
        """Check, copy, check. A file that is the base's own is left out. Raises as ``check``."""
        check(sources, self.overrides, below)
        layer = {name: _copy(staging, path) for name, path in sources.items()}
        beside = {name: _copy(staging, path) for name, path in self.overrides.items()}
        kind = check(_paths(layer), _paths(beside), below)
        return Draft(kind, layer, {name: copy for name, copy in beside.items() if copy.blob != base.files.get(name)})


def _from_checkpoint(folder: Folder, path: Path, base: BaseTensors, files: Mapping[str, str]) -> Path:
    try:
        new = folder.files()
    except ModelFormatError as error:
        raise ModelFormatError(f"neither an adapter ({adapter.CONFIG}) nor a checkpoint: {error.message}") from None
    checkpoint.check(new)
    write_checkpoint_delta(path, base, files, {name: str(file) for name, file in new.items()})
    return path


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


def overrides_in(folder: Path, base: Mapping[str, str]) -> dict[str, Path]:
    """The files beside a layer that stand in for the base's (name -> path): config.json, a tokenizer and such. A
    config.json that says of the model what the base's says is not one of them."""
    names = checkpoint.DATA_FILES.keys() - {checkpoint.INDEX}
    found = {name: folder / name for name in sorted(names) if (folder / name).is_file()}
    config = found.get(checkpoint.CONFIG)
    if config is not None and _said(config) == _said(Path(base[checkpoint.CONFIG])):
        del found[checkpoint.CONFIG]
    return found


def _said(config: Path) -> dict[str, Any]:
    checkpoint.check_data(checkpoint.CONFIG, config)
    values = checkpoint.read_json(checkpoint.CONFIG, config.read_bytes())
    return {name: value for name, value in values.items() if name not in _NOT_OF_THE_MODEL}


_NOT_OF_THE_MODEL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}


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
