"""A manifest: which blobs make a model. JSON on disk, one file for each name and tag."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from kelm.errors import StoreError

FORMAT = 1
Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*\Z")]


class BlobRef(msgspec.Struct, frozen=True):
    """``digest`` is ``sha256:<hex>``; ``size`` in bytes."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the store. ``name`` is full (``llama:latest``); ``digest`` names the content: two names of the same
    files have the same one. ``created`` is Unix time in seconds, for display. ``source``: ``import``, ``package`` or
    ``hub:<repo>@<commit>``."""

    format: int = FORMAT
    name: str
    digest: Digest
    files: dict[FileName, BlobRef]
    created: float
    source: str

    @property
    def size_bytes(self) -> int:
        return sum(blob.size for blob in self.files.values())

    @property
    def asked_as(self) -> str:
        """The name to ask for it by, whichever content it has tomorrow."""
        return self.name


def content_digest(files: Mapping[str, BlobRef]) -> str:
    """Digest over the sorted (file name, blob digest) pairs."""
    lines = "".join(f"{name} {blob.digest}\n" for name, blob in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(raw: bytes, name: str) -> Manifest:
    """Raises StoreError when ``raw`` is not the whole manifest of ``name``."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"the manifest of {name} is damaged ({error}): remove the model and pull it again") from None
    if manifest.format > FORMAT:
        raise StoreError(f"the manifest of {name} has format {manifest.format}, this Kelm knows {FORMAT}: upgrade Kelm")
    if manifest.name != name or manifest.digest != content_digest(manifest.files):
        raise StoreError(f"the manifest of {name} is damaged (it names {manifest.name!r}): pull the model again")
    return manifest
