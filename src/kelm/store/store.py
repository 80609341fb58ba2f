"""The store's front: names in, manifests and paths out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from kelm.clock import SYSTEM, Clock
from kelm.errors import InvalidRequest, ModelNotFound, StoreError
from kelm.store import blobs, checkpoint, manifest
from kelm.store.atomic import TEMP_PREFIX, disk_errors, locked, sync_folder, write_file
from kelm.store.blobs import Staged, Staging
from kelm.store.folder import Folder
from kelm.store.home import Home
from kelm.store.manifest import Manifest, content_digest
from kelm.store.names import Name
from kelm.store.packaged import FOLDER, SOURCE, Packaged
from kelm.store.progress import Progress, counter, no_progress
from kelm.suggest import did_you_mean

log = logging.getLogger(__name__)


class Store:
    """The models of one KELM_HOME, and those shipped in the package. Safe to use from several processes at once.

    Raises StoreError from every method when the home is damaged, full or not ours to write.
    """

    def __init__(self, home: Path, *, packaged: Path = FOLDER, clock: Clock = SYSTEM) -> None:
        self.home = Home(home)
        self._packaged = Packaged(packaged)
        self._clock = clock

    def resolve(self, name: str) -> Manifest:
        """The model called ``name``; one in the home hides one of the same name in the package.

        Raises InvalidRequest when ``name`` is not a name, ModelNotFound with near matches.
        """
        parsed = Name.parse(name)
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
        """Every model's name, sorted."""
        return sorted({*self._home_names(), *self._packaged.names()}, key=str)

    def list(self) -> list[Manifest]:
        """Every model whose manifest is whole, sorted by name."""
        found = []
        for name in self.names():
            try:
                found.append(self.resolve(str(name)))
            except (StoreError, ModelNotFound) as error:  # damaged, or removed meanwhile
                log.warning("manifest_skipped model=%s reason=%r", name, error.message)
        return found

    def paths(self, model: Manifest) -> dict[str, str]:
        """File name -> absolute path of its bytes. Raises StoreError when a blob is not whole any more."""
        return {name: str(self._path(model, name)) for name in model.files}

    def import_folder(self, path: Path, name: str, progress: Progress = no_progress) -> Manifest:
        """Take a folder of safetensors and JSON under ``name``; a model that had the name is replaced.

        Raises ModelFormatError (file and field), InvalidRequest (the name), StoreError (folder, disk).
        """
        parsed = Name.parse(name)
        folder = Folder(path)
        files = folder.files()
        checkpoint.check(files)
        total = sum(file.stat().st_size for file in files.values())
        self._check_space(total)
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
        name = Name.parse(repo_id)
        from kelm.store import hub

        return hub.pull(self, name, progress)

    def remove(self, name: str) -> None:
        """Forget ``name`` and delete the blobs that no other model names.

        A blob that was hard-linked from the Hugging Face cache stays there; the cache's own tools free it.
        Raises ModelNotFound, InvalidRequest for a model of the package.
        """
        parsed = Name.parse(name)
        path = self._manifest_path(parsed)
        with disk_errors(f"{parsed.short} could not be removed"), locked(self.home.lock):
            if not path.exists() and self.resolve(name).source == SOURCE:
                raise InvalidRequest(f"{parsed.short} is part of the Kelm package and can't be removed")
            path.unlink()
            sync_folder(path.parent)
            self._sweep()

    def commit(self, name: Name, staged: Mapping[str, Staged], source: str) -> Manifest:
        """Publish staged files as the model ``name``: blobs first, manifest last. Acknowledged when it returns."""
        files = {file: copy.blob for file, copy in staged.items()}
        model = Manifest(
            name=str(name),
            digest=content_digest(files),
            files=files,
            created=self._clock.wall_s(),
            source=source,
        )
        with locked(self.home.lock):
            self._refuse_case_twin(name)
            blobs.publish(self.home, staged.values())
            path = self._manifest_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent.parent)
            write_file(path, manifest.encode(model))
            self._sweep()
        return model

    def _check_space(self, wanted_bytes: int) -> None:
        free = shutil.disk_usage(self.home.blobs).free
        if wanted_bytes > free:
            raise StoreError(f"no space: {wanted_bytes} bytes are needed, the disk of {self.home.root} has {free} left")

    def _sweep(self) -> None:
        """Remove what nothing names. The caller holds the lock, and what it wrote stands even if this fails. A damaged
        manifest stops it: what that one names is not known."""
        named: set[str] = set()
        try:
            for name in self._home_names():
                model = manifest.decode(self._manifest_path(name).read_bytes(), str(name))
                named.update(blob.digest for blob in model.files.values())
            blobs.sweep(self.home, named)
            for temp in self.home.root.glob(f"manifests/*/{TEMP_PREFIX}*"):
                temp.unlink()
        except (OSError, StoreError) as error:
            log.warning("sweep_stopped reason=%r", str(error))

    def _refuse_case_twin(self, name: Name) -> None:
        for known in self.names():
            for ours, theirs in ((name.folder, known.folder), (str(name), str(known))):
                if ours != theirs and ours.casefold() == theirs.casefold():
                    raise InvalidRequest(f"{name.short} differs from {known.short} only by case", param="model")

    def _path(self, model: Manifest, file: str) -> Path:
        blob = model.files[file]
        packaged = model.source == SOURCE
        path = self._packaged.path(model, file) if packaged else blobs.blob_path(self.home, blob.digest)
        try:
            size = path.stat().st_size
        except OSError:
            size = -1
        if size != blob.size:
            state = "gone" if size < 0 else f"{size} bytes instead of {blob.size}"
            raise StoreError(f"{file} of {model.name} is damaged ({state}): pull or import the model again")
        return path

    def _manifest_path(self, name: Name) -> Path:
        return self.home.manifests / name.folder / f"{name.tag}.json"

    def _home_names(self) -> Iterator[Name]:
        for path in self.home.manifests.glob("*/*.json"):
            with suppress(InvalidRequest):  # not ours
                yield Name.from_folder(path.parent.name, path.stem)
