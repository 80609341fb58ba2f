"""The variants of one home: versions are added, published, rolled back, resolved. Every change is one history file,
replaced as a whole under the store's lock, after the blobs that it names are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kelm import limits
from kelm.errors import InvalidRequest, ModelNotFound, StoreError
from kelm.store import blobs, versions
from kelm.store.atomic import disk_errors, locked, sync_folder, write_file
from kelm.store.blobs import Staging, blob_path
from kelm.store.manifest import Manifest
from kelm.store.names import Name
from kelm.store.versions import History, Version
from kelm.suggest import did_you_mean

if TYPE_CHECKING:
    from kelm.store.additions import About, Addition, Draft
    from kelm.store.store import Store


class Variants:
    """Belongs to a store; its errors are the store's methods'."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._home = store.home

    # what is there

    def names(self) -> Iterator[Name]:
        """Every variant's, without a version."""
        for path in self._home.variants.glob("*/*/*.json"):
            with suppress(InvalidRequest):  # not ours
                base = Name.from_folder(path.parent.parent.name, path.parent.name)
                yield Name.parse(f"{base}@{path.stem}")

    def of_base(self, base: Name) -> list[Name]:
        return sorted((name for name in self.names() if name.base == base), key=str)

    def history(self, name: Name) -> History:
        """Raises ModelNotFound with near matches, StoreError when it is damaged."""
        found = self._read(name)
        if found is None:
            near = did_you_mean(name.unpinned.short, [known.short for known in self._store.names()])
            raise ModelNotFound(f"there is no model {name.unpinned.short} here{near}", param="model")
        return found

    def resolve(self, name: Name) -> versions.Variant:
        """The published version, or the one that ``name`` pins. Raises ModelNotFound, StoreError."""
        history = self.history(name)
        number = name.version or history.current
        if not number:
            raise ModelNotFound(
                f"no version of {name.short} is published: `kelm publish {name.short}:N` does that", param="model"
            )
        version = history.version(number)
        return versions.as_model(name, self._store.resolve(str(name.base)), version)

    def blobs(self) -> set[str]:
        """Digests that some version names. Raises StoreError when a history is damaged."""
        histories = [self.history(name) for name in self.names()]
        return {blob.digest for history in histories for version in history.versions for blob in version.blobs()}

    # changes

    def add(self, name: Name, addition: Addition, parent: int | None, publish: bool, about: About) -> Version:
        """``parent``: None as Store.add_version says."""
        versions.check_facts(about.get("note", ""), {key: value for key, value in about.items() if key != "note"})
        if addition.layer is None and not addition.overrides:
            raise InvalidRequest(f"a version of {name.short} needs a layer or files; neither was given")
        base = self._store.resolve(str(name.base))
        below = self._parent(name, base, addition.parent(parent))
        tensors = addition.below(base, self._store.paths(base), below, self._layer_paths(below))
        self._store.check_space(addition.size_bytes())
        with disk_errors(f"{name.short} could not be written"), Staging(self._home) as staging:
            sources = addition.sources(staging.folder, tensors, self._store.paths(base))
            draft = addition.stage(staging, sources, tensors, base)
            with locked(self._home.lock):
                return self._append(name, base, below, draft, publish=publish, about=about)

    def publish(self, name: Name, number: int) -> History:
        """Make a version current. Raises ModelNotFound."""
        return self._change(name, lambda history, now: history.published(number, now))

    def rollback(self, name: Name) -> History:
        """Make current what was before. Raises ModelNotFound, InvalidRequest when nothing was."""
        return self._change(name, lambda history, now: history.rolled_back(now))

    def remove(self, name: Name) -> None:
        """Forget a variant with all its versions. The caller holds the lock, and sweeps."""
        if name.version is not None:
            raise InvalidRequest(f"no version goes alone; `kelm rm {name.unpinned.short}` removes all of them")
        path = self._path(name)
        if not path.exists():
            self.history(name)  # raises, with near matches
        path.unlink()
        sync_folder(path.parent)

    # inside

    def _parent(self, name: Name, base: Manifest, number: int | None) -> Version | None:
        """None: the base itself. Raises ModelNotFound, StoreError when it lies on another content of the base."""
        history = self._read(name) if number is None else self.history(name) if number else None
        if number is None and history is not None:
            number = history.current
        if history is None or not number:
            return None
        version = history.version(number)
        versions.as_model(name, base, version)  # raises when the base has changed
        if len(version.layers) >= limits.VARIANT_LAYERS.most:
            raise InvalidRequest(
                f"version {number} of {name.short} has {len(version.layers)} layers, the most that may lie on one "
                "another: make a layer from the base (parent 0) that does what they do"
            )
        return version

    def _layer_paths(self, version: Version | None) -> list[dict[str, Path]]:
        layers = version.layers if version else ()
        return [{name: blob_path(self._home, blob.digest) for name, blob in each.files.items()} for each in layers]

    def _append(
        self, name: Name, base: Manifest, parent: Version | None, draft: Draft, *, publish: bool, about: About
    ) -> Version:
        """The caller holds the lock."""
        history = self._read(name) or self._new(name)
        if self._store.resolve(str(name.base)).digest != base.digest:
            raise StoreError(f"{name.base.short} was replaced meanwhile; try again")
        if parent is not None and history.version(parent.number) != parent:
            raise ModelNotFound(f"{name.short} was removed meanwhile", param="model")
        overrides = {file: copy.blob for file, copy in draft.overrides.items()}
        version = Version(
            number=len(history.versions) + 1,
            parent=parent.number if parent else 0,
            base=base.digest,
            kind=draft.kind,
            layers=draft.layers(parent),
            overrides={**(parent.overrides if parent else {}), **overrides},
            created=self._store.clock.wall_s(),
            **about,
        )
        history = history.with_version(version)
        if publish:
            history = history.published(version.number, version.created)
        blobs.publish(self._home, draft.staged())
        self._write(name, history)
        return version

    def _new(self, name: Name) -> History:
        """Raises InvalidRequest for a name that differs from another one only by case."""
        for known in self.names():
            if known != name and str(known).casefold() == str(name).casefold():
                raise InvalidRequest(f"{name.short} differs from {known.short} only by case", param="model")
        return History(name=str(name))

    def _change(self, name: Name, change: Callable[[History, float], History]) -> History:
        with disk_errors(f"{name.short} could not be written"), locked(self._home.lock):
            history = self.history(name)
            changed = change(history, self._store.clock.wall_s())
            if changed is not history:
                self._write(name, changed)
        return changed

    def _write(self, name: Name, history: History) -> None:
        path = self._path(name)
        for folder in (path.parent.parent, path.parent):
            if not folder.exists():
                folder.mkdir()
                sync_folder(folder.parent)
        write_file(path, versions.encode(history))

    def _read(self, name: Name) -> History | None:
        path = self._path(name)
        with disk_errors(f"{name.short} can't be read"):
            try:
                state = path.stat()
            except FileNotFoundError:
                return None
            return _decoded(path, str(name.unpinned), (state.st_ino, state.st_mtime_ns, state.st_size))

    def _path(self, name: Name) -> Path:
        assert name.variant is not None
        return self._home.variants / name.folder / name.tag / f"{name.variant}.json"


@lru_cache(maxsize=64)
def _decoded(path: Path, name: str, state: tuple[int, int, int]) -> History:
    """``state`` is part of the key: the file is never changed in place, so another content is another file."""
    return versions.decode(path.read_bytes(), name)
