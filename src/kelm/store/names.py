"""Names of models: ``name``, ``name:tag``, ``org/name``, ``org/name:tag``; and of their variants: ``model@variant``,
``model@variant:version`` (a positive integer; without it, whichever version is published).

ASCII, no leading dot or dash, no ``..`` and no ``--``: the store writes ``org/name`` as the folder ``org--name``, so
every name is one folder and no name can climb out. Case counts, but two names that differ only by case can't both be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kelm.errors import InvalidRequest

DEFAULT_TAG = "latest"
_PART = r"(?![.-])(?!.*(?:\.\.|--))[A-Za-z0-9._-]{0,95}[A-Za-z0-9_]"
_NAME = re.compile(
    rf"(?:(?P<org>{_PART})/)?(?P<model>{_PART})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,63}}))?"
    rf"(?:@(?P<variant>{_PART})(?::(?P<version>[1-9][0-9]{{0,8}}))?)?"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A checked name; ``str()`` gives the full spelling with its tag: ``nano:latest``, ``nano:latest@support:3``."""

    org: str | None
    model: str
    tag: str = DEFAULT_TAG
    variant: str | None = None
    version: int | None = None
    """Of a variant; None: the published one."""

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises InvalidRequest unless ``text`` is a name as above."""
        match = _NAME.fullmatch(text) if len(text) <= 256 else None
        if match is None:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise InvalidRequest(
                f"{shown!r} is not a model name: name[:tag] or org/name[:tag], of letters, digits, '.', '_' and '-'; "
                "a variant of it is name[:tag]@variant[:version]",
                param="model",
            )
        version = int(match["version"]) if match["version"] else None
        return cls(match["org"], match["model"], match["tag"] or DEFAULT_TAG, match["variant"], version)

    @classmethod
    def from_folder(cls, folder: str, tag: str) -> Name:
        """The name whose manifest is ``manifests/<folder>/<tag>.json``."""
        return cls.parse(f"{folder.replace('--', '/')}:{tag}")

    @property
    def repo_id(self) -> str:
        """The name without its tag, which is what the Hugging Face hub calls a repository."""
        return self.model if self.org is None else f"{self.org}/{self.model}"

    @property
    def folder(self) -> str:
        return self.repo_id.replace("/", "--")

    @property
    def short(self) -> str:
        """As a person would type it: the default tag left out."""
        return f"{self.repo_id if self.tag == DEFAULT_TAG else f'{self.repo_id}:{self.tag}'}{self._behind}"

    @property
    def base(self) -> Name:
        """The model that a variant is laid over; a model's own name."""
        return replace(self, variant=None, version=None)

    @property
    def unpinned(self) -> Name:
        """Without a version."""
        return replace(self, version=None)

    @property
    def _behind(self) -> str:
        pinned = "" if self.version is None else f":{self.version}"
        return "" if self.variant is None else f"@{self.variant}{pinned}"

    def __str__(self) -> str:
        return f"{self.repo_id}:{self.tag}{self._behind}"
