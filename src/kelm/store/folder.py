"""A local folder of untrusted files, opened so that nothing outside it is ever read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from kelm.errors import ModelFormatError, StoreError
from kelm.store import checkpoint


class Folder:
    """A folder that was given to import. A link inside it may point inside it, never out."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError when ``path`` is not a folder that can be read."""
        self.root = Path(os.path.realpath(path))
        if not self.root.is_dir():
            raise StoreError(f"{path} is not a folder" if self.root.exists() else f"there is no folder {path}")

    def files(self) -> dict[str, Path]:
        """The checkpoint's files in here: name -> path, chosen by checkpoint.choose."""
        names = checkpoint.choose(self._names(), self._read_index)
        for name in names:
            self.open(name).close()
        return {name: self.root / name for name in names}

    def open(self, name: str) -> BinaryIO:
        """Open one regular file for reading. Raises ModelFormatError for anything else, or a way out of the folder."""
        try:
            fd = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ModelFormatError(f"{name}: can't be read: {error.strerror}", param=name) from None
        stream = os.fdopen(fd, "rb")
        try:
            self._check_opened(name, fd)
        except BaseException:
            stream.close()
            raise
        return stream

    def _check_opened(self, name: str, fd: int) -> None:
        """What was opened is asked, not the path: a link swapped meanwhile changes nothing."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ModelFormatError(f"{name}: is not a regular file", param=name)
        if not Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(self.root):
            raise ModelFormatError(
                f"{name}: is a link out of the folder, which is not followed; of a Hugging Face cache, "
                "`kelm pull ORG/NAME` takes what is there",
                param=name,
            )

    def _names(self) -> set[str]:
        top = {entry.name for entry in os.scandir(self.root)}
        return top | {name for name in checkpoint.DATA_FILES if "/" in name and (self.root / name).exists()}

    def _read_index(self) -> bytes:
        with self.open(checkpoint.INDEX) as stream:
            return stream.read(checkpoint.DATA_FILES[checkpoint.INDEX] + 1)
