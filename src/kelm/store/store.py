"""The store's front: names in, manifests and paths out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kelm.clock import SYSTEM, Clock
from kelm.errors import InvalidRequest, ModelNotFound, StoreError
from kelm.store import blobs, checkpoint, images, manifest
from kelm.store.atomic import TEMP_PREFIX, check_space, disk_errors, locked, sync_folder, write_file
from kelm.store.blobs import Staged, Staging
from kelm.store.folder import Folder
from kelm.store.home import Home
from kelm.store.manifest import BlobRef, Manifest, content_digest
from kelm.store.names import Name
from kelm.store.packaged import FOLDER, SOURCE, Packaged
from kelm.store.progress import Progress, counter, no_progress
from kelm.store.variants import Variants
from kelm.store.versions import History, Variant, Version
from kelm.suggest import did_you_mean

if TYPE_CHECKING:
    from kelm.store.additions import About

log = logging.getLogger(__name__)


class Store:
    """The models of one KELM_HOME, and those shipped in the package. Safe to use from several processes at once.

    Raises StoreError from every method when the home is damaged, full or not ours to write.
    """

    def __init__(self, home: Path, *, packaged: Path = FOLDER, clock: Clock = SYSTEM) -> None:
        self.home = Home(home)
        self.clock = clock
        self._packaged = Packaged(packaged)
        self._variants = Variants(self)

    def resolve(self, name: str) -> Manifest:
        """The model called ``name``; one in the home hides one of the same name in the package. ``base@variant`` is
        the variant's published version, a versions.Variant.

        Raises InvalidRequest when ``name`` is not a name, ModelNotFound with near matches.
        """
        parsed = Name.parse(name)
        if parsed.variant is not None:
            return self._variants.resolve(parsed)
        with disk_errors(f"{parsed.short} can't be read"):
            path = self._manifest_path(parsed)
            if path.exists():
                return manifest.decode(path.read_bytes(), str(parsed))
        found = self._packaged.find(parsed)
        if found is None:
            near = did_you_mean(parsed.short, [known.short for known in self.names()])
            raise ModelNotFound(f"there is no model {parsed.short} here{near}", param="model")
        return found

    def names(self) -> list[Name]:
        """Every model's and every variant's name, sorted."""
        return sorted({*self._home_names(), *self._packaged.names(), *self._variants.names()}, key=str)

    def list(self) -> list[Manifest]:
        """Every model whose manifest is whole, and the published version of every variant, sorted by name."""
        found = []
        for name in self.names():
            try:
                found.append(self.resolve(str(name)))
            except (StoreError, ModelNotFound) as error:  # damaged, or removed meanwhile
                log.warning("manifest_skipped model=%s reason=%r", name, error.message)
        return found

    def paths(self, model: Manifest) -> dict[str, str]:
        """File name -> absolute path of its bytes. Raises StoreError when a blob is not whole any more."""
        if isinstance(model, Variant):
            own = model.version.overrides
            return self.paths(model.base) | {name: str(self._own(model, name, blob)) for name, blob in own.items()}
        return {name: str(self._path(model, name)) for name in model.files}

    def layer_paths(self, model: Manifest) -> Sequence[dict[str, str]]:
        """The files of each layer of a variant, from the base up; none of a model. Raises StoreError as ``paths``."""
        layers = model.version.layers if isinstance(model, Variant) else ()
        return [{name: str(self._own(model, name, blob)) for name, blob in layer.files.items()} for layer in layers]

    def import_folder(self, path: Path, name: str, progress: Progress = no_progress) -> Manifest:
        """Take a folder of safetensors and JSON under ``name``; a model that had the name is replaced.

        Raises ModelFormatError (file and field), InvalidRequest (the name), StoreError (folder, disk).
        """
        parsed = _of_model(name)
        folder = Folder(path)
        files = folder.files()
        checkpoint.check(files)
        total = sum(file.stat().st_size for file in files.values())
        self.check_space(total)
        with disk_errors(f"{parsed.short} could not be imported"), Staging(self.home) as staging:
            staged: dict[str, Staged] = {}
            count = counter("importing", total, progress)
            for file in files:
                with folder.open(file) as stream:
                    staged[file] = staging.copy(stream, count)
            checkpoint.check({file: copy.path for file, copy in staged.items()})  # the source may have changed
            return self.commit(parsed, staged, source="import")

    def pull(self, repo_id: str, progress: Progress = no_progress) -> Manifest:
        """Bring ``org/name[:revision]`` from the Hugging Face hub; see hub.pull for the errors."""
        name = _of_model(repo_id)
        from kelm.store import hub

        return hub.pull(self, name, progress)

    def remove(self, name: str) -> None:
        """Forget ``name`` (of a variant: all of its versions) and delete the blobs that no other model names.

        A blob that was hard-linked from the Hugging Face cache stays there; the cache's own tools free it.
        Raises ModelNotFound, InvalidRequest for a model of the package and for one that has variants.
        """
        parsed = Name.parse(name)
        with disk_errors(f"{parsed.short} could not be removed"), locked(self.home.lock):
            if parsed.variant is None:
                self._remove_model(parsed)
            else:
                self._variants.remove(parsed)
            self._sweep()

    # variants

    def add_version(
        self,
        base_name: str,
        variant: str,
        *,
        layer: Path | None = None,
        overrides: Mapping[str, Path] | None = None,
        parent: int | None = None,
        publish: bool = True,
        **about: Unpack[About],
    ) -> Version:
        """Append a version to ``base_name@variant``, which begins with it if it isn't there yet.

        Args:
            layer: a PEFT adapter's folder (adapter.py) or a delta file (delta.py), laid over the parent's layers; or a
                whole checkpoint's folder, of which the delta from the base is made (difference.py).
            overrides: files that stand in for the base's, config.json or a tokenizer's, beside the parent's.
            parent: a version's number; 0: the base itself. None: for a delta file and for files alone the published
                version, else the base; for a folder the base, which adapters and checkpoints are made from.
            publish: serve it from now on.
            about: author, evaluation, data_digest, settings, note.

        Acknowledged when it returns; before anything is written all of it is checked. Raises InvalidRequest,
        ModelNotFound (base, parent), ModelFormatError (file and tensor), UnsupportedModel (not plain LoRA), StoreError.
        """
        name = Name.parse(f"{base_name}@{variant}")
        if name.variant is None or name.version is not None:
            raise InvalidRequest(f"{variant!r} is not a variant's name")
        from kelm.store.additions import Addition  # numpy, which takes longer than most commands

        return self._variants.add(name, Addition(layer=layer, overrides=overrides or {}), parent, publish, about)

    def history(self, name: str) -> History:
        """The versions of ``base@variant``, which of them is published, and what happened. Raises ModelNotFound."""
        return self._variants.history(_of_variant(name))

    def publish(self, name: str, number: int) -> History:
        """Serve version ``number`` as ``base@variant`` from now on. Raises ModelNotFound."""
        return self._variants.publish(_of_variant(name), number)

    def rollback(self, name: str) -> History:
        """Serve the version again that was published before. Raises InvalidRequest when there is none."""
        return self._variants.rollback(_of_variant(name))

    # for the importers

    def commit(self, name: Name, staged: Mapping[str, Staged], source: str) -> Manifest:
        """Publish staged files as the model ``name``: blobs first, manifest last. Acknowledged when it returns."""
        files = {file: copy.blob for file, copy in staged.items()}
        model = Manifest(
            name=str(name),
            digest=content_digest(files),
            files=files,
            created=self.clock.wall_s(),
            source=source,
        )
        with locked(self.home.lock):
            self._refuse_case_twin(name)
            self._refuse_to_move(name, model.digest)
            blobs.publish(self.home, staged.values())
            path = self._manifest_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent.parent)
            write_file(path, manifest.encode(model))
            self._sweep()
        return model

    def check_space(self, wanted_bytes: int) -> None:
        """Raises StoreError when the disk has less left."""
        check_space(self.home.root, wanted_bytes)

    def _sweep(self) -> None:
        """Remove what nothing names. The caller holds the lock, and what it wrote stands even if this fails. A damaged
        manifest stops it: what that one names is not known."""
        try:
            named, models = self._variants.blobs(), self._packaged.digests()
            for name in self._home_names():
                model = manifest.decode(self._manifest_path(name).read_bytes(), str(name))
                named.update(blob.digest for blob in model.files.values())
                models.add(model.digest)
            blobs.sweep(self.home, named)
            images.sweep(self.home.images, models)
            for pattern in ("manifests/*", "variants/*/*"):
                for temp in self.home.root.glob(f"{pattern}/{TEMP_PREFIX}*"):
                    temp.unlink()
        except (OSError, StoreError) as error:
            log.warning("sweep_stopped reason=%r", str(error))

    def _refuse_case_twin(self, name: Name) -> None:
        for known in self.names():
            for ours, theirs in ((name.folder, known.folder), (str(name), str(known))):
                if ours != theirs and ours.casefold() == theirs.casefold():
                    raise InvalidRequest(f"{name.short} differs from {known.short} only by case", param="model")

    def _refuse_to_move(self, name: Name, digest: str) -> None:
        """Variants lie on one content of their base: it stays while they are there."""
        over = self._variants.of_base(name)
        made_for = {version.base for each in over for version in self._variants.history(each).versions}
        if made_for and digest not in made_for and self._digest(name) in {None, *made_for}:
            raise InvalidRequest(
                f"{name.short} has variants that were made for its content ({_listed(over)}): take the new content "
                "under another name or tag, or remove the variants first",
                param="model",
            )

    def _digest(self, name: Name) -> str | None:
        """Of the model's content now; None when there is none, or it can't be read."""
        try:
            return self.resolve(str(name)).digest
        except (ModelNotFound, StoreError):
            return None

    def _remove_model(self, name: Name) -> None:
        path = self._manifest_path(name)
        if not path.exists() and self.resolve(str(name)).source == SOURCE:
            raise InvalidRequest(f"{name.short} is part of the Kelm package and can't be removed")
        over = self._variants.of_base(name)
        if over:
            raise InvalidRequest(f"{name.short} has variants: `kelm rm {_listed(over)}` first", param="model")
        path.unlink()
        sync_folder(path.parent)

    def _path(self, model: Manifest, file: str) -> Path:
        if model.source == SOURCE:
            return _whole(self._packaged.path(model, file), model, file, model.files[file])
        return self._own(model, file, model.files[file])

    def _own(self, model: Manifest, file: str, blob: BlobRef) -> Path:
        return _whole(blobs.blob_path(self.home, blob.digest), model, file, blob)

    def _manifest_path(self, name: Name) -> Path:
        return self.home.manifests / name.folder / f"{name.tag}.json"

    def _home_names(self) -> Iterator[Name]:
        for path in self.home.manifests.glob("*/*.json"):
            with suppress(InvalidRequest):  # not ours
                yield Name.from_folder(path.parent.name, path.stem)


def _whole(path: Path, model: Manifest, file: str, blob: BlobRef) -> Path:
    """``path``, when it has the bytes that it should. Raises StoreError."""
    try:
        size = path.stat().st_size
    except OSError:
        size = -1
    if size != blob.size:
        state = "gone" if size < 0 else f"{size} bytes instead of {blob.size}"
        raise StoreError(f"{file} of {model.name} is damaged ({state}): pull or import the model again")
    return path


def _of_model(text: str) -> Name:
    name = Name.parse(text)
    if name.variant is not None:
        raise InvalidRequest(
            f"{name.short} is a variant's name; a model has none, and `kelm update` makes variants", param="model"
        )
    return name


def _of_variant(text: str) -> Name:
    name = Name.parse(text)
    if name.variant is None:
        raise InvalidRequest(f"{name.short} is a model; a variant of it is {name.short}@NAME", param="model")
    return name


def _listed(names: Iterable[Name]) -> str:
    return " ".join(name.short for name in names)
