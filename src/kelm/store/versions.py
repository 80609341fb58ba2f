"""Versions of a variant, and their history: what is on disk in ``variants/<name>/<tag>/<variant>.json``.

A version never changes. Publishing and rolling back move a mark, ``current``; ``before`` is the way back.

    versions   1 ── 2 ── 3            parents
               └─── 4
    current    4                      what ``nano@support`` is
    before     [1, 2]                 where `kelm rollback` goes: to 2, then to 1
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from kelm import limits
from kelm.errors import InvalidRequest, ModelNotFound, StoreError
from kelm.store.manifest import BlobRef, Digest, FileName, Manifest, content_digest
from kelm.store.names import Name

FORMAT = 1
Number = Annotated[int, msgspec.Meta(ge=1)]
Kind = Literal["low_rank", "sparse", "dense", "tensors", "mixed", "files"]
"""What a version adds to its parent: a PEFT adapter; a delta whose differences are sparse, dense, whole tensors or
several of these; or files only."""


class Layer(msgspec.Struct, frozen=True):
    """One difference of weights. ``low_rank``: adapter_config.json and adapter_model.safetensors (adapter.py);
    ``delta``: delta.safetensors (delta.py)."""

    kind: Literal["low_rank", "delta"]
    files: dict[FileName, BlobRef]

    @property
    def size_bytes(self) -> int:
        return sum(blob.size for blob in self.files.values())


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """``layers``: from the base up, the parent's first. ``overrides``: files of the checkpoint (config.json, ...) that
    stand in for the base's. ``created`` is Unix time."""

    number: Number
    parent: Annotated[int, msgspec.Meta(ge=0)]
    """0: the base itself."""
    base: Digest
    """Of the base's manifest; with other content the layers would mean nothing."""
    kind: Kind
    layers: tuple[Layer, ...]
    overrides: dict[FileName, BlobRef] = {}
    created: float
    author: str = ""
    evaluation: dict[str, Any] = {}
    data_digest: str | None = None
    settings: dict[str, Any] = {}
    note: str = ""

    @property
    def size_bytes(self) -> int:
        """Of everything that is laid over the base."""
        return sum(blob.size for blob in self.blobs())

    @property
    def added_bytes(self) -> int:
        """Of what the parent didn't have."""
        return self.size_bytes if self.kind == "files" or not self.layers else self.layers[-1].size_bytes

    @property
    def digest(self) -> str:
        """Names the content: base, layers in their order, overrides."""
        parts = [self.base, *(f"{layer.kind} {content_digest(layer.files)}" for layer in self.layers)]
        text = "\n".join([*parts, content_digest(self.overrides)])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def blobs(self) -> list[BlobRef]:
        layers = [blob for layer in self.layers for blob in layer.files.values()]
        return layers + list(self.overrides.values())


class Event(msgspec.Struct, frozen=True):
    """``what`` happened to version ``number`` at ``at`` (Unix time)."""

    at: float
    what: Literal["added", "published", "rolled_back"]
    number: Number


class History(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is full, ``nano:latest@support``. ``current``: the published version; 0: none is."""

    format: int = FORMAT
    name: str
    versions: tuple[Version, ...] = ()
    current: Annotated[int, msgspec.Meta(ge=0)] = 0
    before: tuple[Number, ...] = ()
    """What was current before, newest last."""
    events: tuple[Event, ...] = ()

    def version(self, number: int) -> Version:
        """Raises ModelNotFound."""
        if not 1 <= number <= len(self.versions):
            had = f"it has 1 to {len(self.versions)}" if self.versions else "it has none"
            raise ModelNotFound(
                f"there is no version {number} of {Name.parse(self.name).short}: {had}; "
                f"`kelm versions {Name.parse(self.name).short}` lists them",
                param="model",
            )
        return self.versions[number - 1]

    def with_version(self, version: Version) -> History:
        """Appended, not published. Raises InvalidRequest when there are too many."""
        most = limits.VARIANT_VERSIONS.most
        if len(self.versions) >= most:
            raise InvalidRequest(f"{self.name} has {most} versions, the most that it may have: begin another variant")
        assert version.number == len(self.versions) + 1
        return self._after("added", version.number, version.created, versions=(*self.versions, version))

    def published(self, number: int, at: float) -> History:
        """``number`` is current. Publishing what is current changes nothing. Raises ModelNotFound."""
        self.version(number)
        if number == self.current:
            return self
        before = (*self.before, self.current) if self.current else self.before
        return self._after("published", number, at, current=number, before=before[-_KEPT:])

    def rolled_back(self, at: float) -> History:
        """Current is what was before. Raises InvalidRequest when nothing was."""
        if not self.before:
            short = Name.parse(self.name).short
            raise InvalidRequest(f"no version of {short} was published before this one: there is nothing to go back to")
        number = self.before[-1]
        return self._after("rolled_back", number, at, current=number, before=self.before[:-1])

    def _after(self, what: Literal["added", "published", "rolled_back"], number: int, at: float, **new: Any) -> History:
        events = (*self.events, Event(at, what, number))[-_KEPT:]
        return msgspec.structs.replace(self, events=events, **new)


_KEPT = int(limits.HISTORY_EVENTS.value)


class Variant(Manifest, frozen=True, kw_only=True):
    """One version of a variant, as a model of the store. ``name`` is pinned (``nano:latest@support:3``), ``files`` are
    the base's with the version's overrides in their place, ``digest`` is the version's, ``source`` is ``variant``."""

    base: Manifest
    version: Version

    @property
    def size_bytes(self) -> int:
        """Its own; the base's are the base's."""
        return self.version.size_bytes

    @property
    def asked_as(self) -> str:
        return str(Name.parse(self.name).unpinned)


SOURCE = "variant"


def as_model(name: Name, base: Manifest, version: Version) -> Variant:
    """``version`` of the variant ``name`` over ``base``. Raises StoreError when it was made for another content."""
    if version.base != base.digest:
        raise StoreError(
            f"{name.short} was made for {base.name} with the content {version.base[:19]}, which now has "
            f"{base.digest[:19]}: bring that content back, or make the variant again"
        )
    return Variant(
        name=str(Name(name.org, name.model, name.tag, name.variant, version.number)),
        digest=version.digest,
        files={**base.files, **version.overrides},
        created=version.created,
        source=SOURCE,
        base=base,
        version=version,
    )


def encode(history: History) -> bytes:
    return msgspec.json.format(msgspec.json.encode(history), indent=1) + b"\n"


def decode(raw: bytes, name: str) -> History:
    """Raises StoreError when ``raw`` is not the whole history of ``name``."""
    try:
        history = msgspec.json.decode(raw, type=History)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"the history of {name} is damaged ({error}): remove the variant and make it again") from None
    if history.format > FORMAT:
        raise StoreError(f"the history of {name} has format {history.format}, this Kelm knows {FORMAT}: upgrade Kelm")
    numbers = [version.number for version in history.versions]
    if history.name != name or numbers != list(range(1, len(numbers) + 1)) or history.current > len(numbers):
        raise StoreError(f"the history of {name} is damaged (it names {history.name!r}): make the variant again")
    return history


def check_facts(note: str, facts: Mapping[str, Any]) -> None:
    """What whoever adds a version says of it. Raises InvalidRequest for what is too long or is not JSON."""
    limits.VERSION_NOTE_BYTES.check(len(note.encode()), field="the length of note")
    try:
        size = len(msgspec.json.encode(facts))
    except TypeError as error:
        raise InvalidRequest(f"evaluation and settings must be JSON values: {error}") from None
    limits.VERSION_FACTS_BYTES.check(size, field="the size of evaluation and settings")
