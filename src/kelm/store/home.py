"""KELM_HOME: its layout, its version, its migrations.

    VERSION                          format of this folder, one decimal number
    lock                             held by whoever writes the store
    config.yaml                      settings (config.py)
    blobs/sha256-<hex>               immutable files named by their digest
    blobs/.staging/<random>/         files on their way to be blobs; flocked by the process that writes them
    manifests/<name>/<tag>.json      which blobs make a model; org/name lies in the folder org--name
    variants/<name>/<tag>/<variant>.json   the history of a variant of that model (versions.py)
    images/sha256-<hex>.<precision>/ weights of that model packed for the kernels (images.py); made anew when gone
    logs/                            the daemon's

A home with an older VERSION is migrated step by step under the lock, VERSION last, so that an interrupted
migration runs again: a step must give the same result when it is run twice. A newer home is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kelm.errors import StoreError
from kelm.store.atomic import disk_errors, locked, write_file

VERSION = 2


def _with_variants(root: Path) -> None:
    """Format 2 has variants. A program of format 1 would not know their blobs, and sweep them."""
    (root / "variants").mkdir(exist_ok=True)


MIGRATIONS: Mapping[int, Callable[[Path], None]] = {1: _with_variants}
"""From version n to n + 1; format 1 is the first."""


class Home:
    """An opened KELM_HOME at this program's version.

    Raises StoreError: a newer or damaged home, no permission, no space.
    """

    def __init__(self, root: Path, migrations: Mapping[int, Callable[[Path], None]] = MIGRATIONS) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.staging = self.blobs / ".staging"
        self.manifests = root / "manifests"
        self.variants = root / "variants"
        self.images = root / "images"
        self.logs = root / "logs"
        self.lock = root / "lock"
        wanted = VERSION + len(migrations) - len(MIGRATIONS)
        with disk_errors(f"{root} can't be opened as KELM_HOME"):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._version() != wanted:
                with locked(self.lock):
                    self._migrate(migrations, wanted)
            for folder in (self.staging, self.manifests, self.variants, self.images, self.logs):
                folder.mkdir(parents=True, exist_ok=True)

    def _version(self) -> int | None:
        try:
            text = (self.root / "VERSION").read_text()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = "?"
        if not (text.strip().isascii() and text.strip().isdigit()):
            raise StoreError(f"{self.root}/VERSION is damaged: it holds {text[:20]!r} instead of a number")
        return int(text)

    def _migrate(self, migrations: Mapping[int, Callable[[Path], None]], wanted: int) -> None:
        found = self._version()
        if found is not None and found > wanted:
            raise StoreError(
                f"{self.root} was written by a newer Kelm (format {found}, this one knows {wanted}): "
                "upgrade Kelm, or set KELM_HOME to another folder"
            )
        for version in range(wanted if found is None else found, wanted):
            migrations[version](self.root)
        write_file(self.root / "VERSION", f"{wanted}\n".encode())
