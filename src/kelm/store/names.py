"""Names of models: ``name``, ``name:tag``, ``org/name``, ``org/name:tag``.

ASCII, no leading dot or dash, no ``..`` and no ``--``: the store writes ``org/name`` as the folder ``org--name``, so
every name is one folder and no name can climb out. Case counts, but two names that differ only by case can't both be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kelm.errors import InvalidRequest

DEFAULT_TAG = "latest"
_PART = r"(?![.-])(?!.*(?:\.\.|--))[A-Za-z0-9._-]{0,95}[A-Za-z0-9_]"
_NAME = re.compile(rf"(?:(?P<org>{_PART})/)?(?P<model>{_PART})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,63}}))?")


@dataclass(frozen=True, slots=True)
class Name:
    """A checked name; ``str()`` gives the full spelling with its tag."""

    org: str | None
    model: str
    tag: str = DEFAULT_TAG

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises InvalidRequest unless ``text`` is a name as above."""
        match = _NAME.fullmatch(text) if len(text) <= 256 else None
        if match is None:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise InvalidRequest(
                f"{shown!r} is not a model name: name[:tag] or org/name[:tag], of letters, digits, '.', '_' and '-'",
                param="model",
            )
        return cls(match["org"], match["model"], match["tag"] or DEFAULT_TAG)

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
        return self.repo_id if self.tag == DEFAULT_TAG else str(self)

    def __str__(self) -> str:
        return f"{self.repo_id}:{self.tag}"
