"""Pull from the Hugging Face hub, or from whatever HF_ENDPOINT names, through ``huggingface_hub``.

Files land in the Hugging Face cache (HF_HOME), where other programs find them, and are hard-linked from there: nothing
is stored twice, and `kelm rm` frees the bytes once the cache has let go of them too (and the other way round). On
another disk than KELM_HOME, or in a cache that belongs to somebody else, the link is symbolic: then clearing the cache
takes the model away, and using it says so.

Every file is hashed and compared with what the hub says it is: SHA-256 for large files, git's blob id for small ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kelm.errors import InvalidRequest, ModelFormatError, ModelNotFound, StoreError, Unauthorized
from kelm.store import checkpoint
from kelm.store.atomic import disk_errors
from kelm.store.blobs import Staged, Staging
from kelm.store.manifest import Manifest
from kelm.store.names import DEFAULT_TAG, Name
from kelm.store.progress import Progress, counter
from kelm.suggest import did_you_mean

if TYPE_CHECKING:
    from kelm.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubFile:
    """``digest``: hex SHA-256 (64 digits) or git blob id (40 digits); ``size`` in bytes, 0 when it is not known."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a repository at one commit."""

    repo_id: str
    commit: str
    files: Mapping[str, HubFile]

    @property
    def source(self) -> str:
        return f"hub:{self.repo_id}@{self.commit}"


def pull(store: Store, name: Name, progress: Progress) -> Manifest:
    """Bring the repository ``name.repo_id`` at the revision ``name.tag`` (latest: main) into ``store``.

    Without a connection, what the Hugging Face cache holds is taken. Raises ModelNotFound (near matches from the hub),
    Unauthorized (gated), ModelFormatError (a file is malformed, or not what the hub says), StoreError (network, disk).
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the progress says enough
    with _hub_errors(store, name):
        snapshot = _snapshot(name)
        existing = _existing(store, name, snapshot)
        if existing is not None:
            return existing
        index = lambda: Path(_fetch(snapshot, checkpoint.INDEX)).read_bytes()  # noqa: E731
        paths = _download(snapshot, checkpoint.choose(snapshot.files.keys(), index), progress)
    with disk_errors(f"{name.short} could not be stored"), Staging(store.home) as staging:
        count = counter("verifying", sum(path.stat().st_size for path in paths.values()), progress)
        staged: dict[str, Staged] = {}
        for file, path in paths.items():
            staged[file] = staging.link(path, count)
            _verify(file, path, staged[file], snapshot.files[file])
        checkpoint.check({file: link.path for file, link in staged.items()})
        return store.commit(name, staged, source=snapshot.source)


def _existing(store: Store, name: Name, snapshot: Snapshot) -> Manifest | None:
    """The model as it is, when it is this commit and whole."""
    try:
        model = store.resolve(str(name))
        store.paths(model)
    except (ModelNotFound, StoreError):
        return None
    return model if model.source == snapshot.source else None


def _snapshot(name: Name) -> Snapshot:
    revision = constants.DEFAULT_REVISION if name.tag == DEFAULT_TAG else name.tag
    try:
        info = HfApi().model_info(name.repo_id, revision=revision, files_metadata=True)
    except (OfflineModeIsEnabled, httpx2.TransportError):
        config = try_to_load_from_cache(name.repo_id, checkpoint.CONFIG, revision=revision)
        if not isinstance(config, str):
            raise
        log.info("hub_unreachable model=%s using=cache", name)
        return Snapshot(name.repo_id, Path(config).parent.name, _cached_files(Path(config).parent))
    files = {
        file.rfilename: HubFile(file.lfs.sha256 if file.lfs else file.blob_id or "", file.size or 0)
        for file in info.siblings or []
    }
    if checkpoint.CONFIG in files:  # by the revision's name, so that the cache knows it without a connection
        hf_hub_download(name.repo_id, checkpoint.CONFIG, revision=revision)
    return Snapshot(name.repo_id, info.sha or revision, files)


def _cached_files(folder: Path) -> dict[str, HubFile]:
    """What the cache holds of a commit: links to files that are named by their digest."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): HubFile(path.resolve().name, path.stat().st_size) for path in files}


def _fetch(snapshot: Snapshot, file: str, bar: type | None = None) -> str:
    return hf_hub_download(snapshot.repo_id, file, revision=snapshot.commit, tqdm_class=bar)


def _download(snapshot: Snapshot, names: list[str], progress: Progress) -> dict[str, Path]:
    """Each file's real path in the cache, after bringing what is not there."""
    missing = [name for name in names if name not in snapshot.files]
    if missing:
        raise ModelFormatError(f"{checkpoint.INDEX} names {missing[0]}, which {snapshot.repo_id} does not have")
    count = counter("downloading", sum(snapshot.files[name].size for name in names), progress)
    paths: dict[str, Path] = {}
    for name in names:
        seen = 0

        def arrived(size: int) -> None:
            nonlocal seen
            seen += size
            count(size)

        paths[name] = Path(_fetch(snapshot, name, _bar(arrived))).resolve()
        count(snapshot.files[name].size - seen)  # what was in the cache before
    return paths


def _bar(arrived: Callable[[int], None]) -> type:
    """huggingface_hub reports to a tqdm class; this one draws nothing and passes on how many bytes are on disk. The
    ``transfer`` half of its protocol (bytes on the wire, fewer after deduplication) is taken and left."""

    class Bar:
        def __init__(self, *args: Any, **options: Any) -> None: ...

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None: ...

        def update(self, size: float | None = 1) -> None:
            arrived(int(size or 0))

        def update_transfer(self, size: float) -> None: ...

        def set_postfix_str(self, *args: Any, **options: Any) -> None: ...

        def set_transfer_postfix_str(self, *args: Any, **options: Any) -> None: ...

        def close(self) -> None: ...

    return Bar


def _verify(file: str, path: Path, staged: Staged, wanted: HubFile) -> None:
    """Raises ModelFormatError when the file is not what the hub says; the cache's copy goes, or it would be used
    again."""
    if len(wanted.digest) == 64:
        found = staged.blob.digest.removeprefix("sha256:")
    else:
        raw = staged.path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
    if found != wanted.digest:
        path.unlink(missing_ok=True)
        raise ModelFormatError(
            f"{file}: was corrupted on the way: its digest is {found[:12]}…, the hub says {wanted.digest[:12]}…; "
            "the copy was removed, pull again",
            param=file,
        )


@contextmanager
def _hub_errors(store: Store, name: Name) -> Iterator[None]:
    repo, endpoint = name.repo_id, constants.ENDPOINT
    try:
        yield
    except GatedRepoError:
        raise Unauthorized(
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, then set HF_TOKEN to a token that may read it"
        ) from None
    except RepositoryNotFoundError:
        near = did_you_mean(repo, [*(known.repo_id for known in store.names()), *_search(name)])
        hint = near or "; if it is private, set HF_TOKEN"
        raise ModelNotFound(f"there is no model {repo} on the hub ({endpoint}){hint}", param="model") from None
    except RevisionNotFoundError:
        raise ModelNotFound(f"{repo} on the hub has no revision {name.tag}", param="model") from None
    except HFValidationError as error:
        raise InvalidRequest(f"{repo} is not a name of the hub: {error}", param="model") from None
    except HfHubHTTPError as error:
        raise StoreError(f"the hub ({endpoint}) answered {error.response.status_code} for {repo}") from error
    except (EntryNotFoundError, OfflineModeIsEnabled, httpx2.HTTPError) as error:
        raise StoreError(
            f"the hub ({endpoint}) can't be reached, and {repo} is not whole in the Hugging Face cache: "
            "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then pull again: it goes on where it stopped"
        ) from error
    except OSError as error:
        raise StoreError(f"{repo} could not be downloaded: {' '.join(str(error).split())}") from error


def _search(name: Name) -> list[str]:
    """Repositories whose name looks alike; none when the hub does not answer."""
    try:
        return [found.id for found in HfApi().list_models(search=name.model, limit=20)]
    except (HfHubHTTPError, httpx2.HTTPError, OSError):
        return []
