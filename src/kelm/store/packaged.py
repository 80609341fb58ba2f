"""Models shipped in the package, under ``kelm/data/models/<name>/``: they are in every store, under the tag latest."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import kelm
from kelm.store.folder import Folder
from kelm.store.manifest import BlobRef, Manifest, content_digest
from kelm.store.names import DEFAULT_TAG, Name

SOURCE = "package"
FOLDER = Path(kelm.__file__).parent / "data" / "models"


class Packaged:
    """The models in one package folder, read-only."""

    def __init__(self, root: Path = FOLDER) -> None:
        self._root = root

    def names(self) -> list[Name]:
        if not self._root.is_dir():
            return []
        return [Name.parse(folder.name) for folder in sorted(self._root.iterdir()) if folder.is_dir()]

    def find(self, name: Name) -> Manifest | None:
        if name.org is not None or name.tag != DEFAULT_TAG or not (self._root / name.model).is_dir():
            return None
        paths = Folder(self._root / name.model).files()
        files = {file: _blob(path, path.stat().st_mtime_ns) for file, path in paths.items()}
        created = max(path.stat().st_mtime for path in paths.values())
        return Manifest(name=str(name), digest=content_digest(files), files=files, created=created, source=SOURCE)

    def digests(self) -> set[str]:
        """What names the content of each."""
        return {found.digest for found in map(self.find, self.names()) if found is not None}

    def path(self, manifest: Manifest, file: str) -> Path:
        return self._root / Name.parse(manifest.name).model / file


@lru_cache(maxsize=64)
def _blob(path: Path, mtime_ns: int) -> BlobRef:
    """``mtime_ns`` is part of the key, for a checkout in which a model was made anew."""
    raw = path.read_bytes()
    return BlobRef("sha256:" + hashlib.sha256(raw).hexdigest(), len(raw))
