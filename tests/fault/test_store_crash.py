"""Whatever happens in the middle of a write, the store holds the old model or the new one, exactly.

The crash loop kills a child with SIGKILL before every line that the store's code executes; the failure loop makes the
Nth system call that changes the disk fail; a file size limit cuts writes in half.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kelm.errors import KelmError, StoreError
from kelm.store import Store, Variant
from kelm.store import safetensors as reader

CODE = str(Path(reader.__file__).parent)
WRITES = ("atomic.py", "blobs.py", "store.py", "variants.py")
DONE, REFUSED, NEVER_REACHED = 0, 7, 8


def write_checkpoint(folder: Path, value: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"value": value}))
    save_file({"t": np.full(1000, value, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A home that holds ``old`` twice, and the folders ``old`` and ``new`` to import from."""
    store = open_store(tmp_path / "home")
    store.import_folder(write_checkpoint(tmp_path / "old", 1.0), "toy")
    store.import_folder(tmp_path / "old", "other")
    write_checkpoint(tmp_path / "new", 2.0)
    return tmp_path


def add_variant(world: Path) -> Path:
    """``versed`` with the variant ``v``, of which version 2 is published and 3 is not, and the file ``delta``."""
    store = open_store(world / "home")
    base = store.import_folder(write_checkpoint(world / "versed", 3.0), "versed")
    for number in range(1, 5):
        change = {"t.indices": np.array([number]), "t.values": np.ones(1, np.float32)}
        save_file(change, world / "delta", {"format": "kelm-delta", "base": base.digest})
        if number < 4:
            store.add_version("versed", "v", layer=world / "delta", parent=0, publish=number < 3)
    return world


def open_store(home: Path) -> Store:
    return Store(home, packaged=home / "none")


def content(home: Path) -> dict[str, str]:
    """Model -> digest of its weights, of a variant its whole history; every blob must be what its name says."""
    store = open_store(home)
    found = {}
    for model in store.list():
        for file, path in store.paths(model).items():
            assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == model.files[file].digest[7:]
        found[model.asked_as] = model.files["model.safetensors"].digest
        if isinstance(model, Variant):
            found[model.asked_as] = variant_content(store, model.asked_as)
    assert [str(name) for name in store.names()] == list(found), "a manifest is damaged"
    return found


def variant_content(store: Store, name: str) -> str:
    """Numbers and what happened; times are left out, since every try has its own."""
    history = store.history(name)
    for version in history.versions:
        model = store.resolve(f"{name}:{version.number}")
        for files, layer in zip(store.layer_paths(model), version.layers, strict=True):
            raw = Path(files["delta.safetensors"]).read_bytes()
            assert hashlib.sha256(raw).hexdigest() == layer.files["delta.safetensors"].digest[7:]
    told = [(event.what, event.number) for event in history.events]
    return str([[version.digest for version in history.versions], history.current, history.before, told])


def assert_clean(home: Path) -> None:
    """Only what manifests name is left."""
    store = open_store(home)
    digests = {blob.digest for model in store.list() for blob in model.files.values()}
    histories = [store.history(str(name)) for name in store.names() if name.variant]
    digests |= {blob.digest for history in histories for version in history.versions for blob in version.blobs()}
    named = {digest.replace(":", "-") for digest in digests}
    assert {path.name for path in store.home.blobs.iterdir()} == named | {".staging"}
    assert list(store.home.staging.iterdir()) == []
    assert list(home.rglob(".tmp-*")) == []


def forked(act: Callable[[], object], prepare: Callable[[], object]) -> int:
    """Run ``act`` in a child; its exit status, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            fired = prepare()
            act()
            status = NEVER_REACHED if callable(fired) and not fired() else DONE
        except KelmError:
            status = REFUSED
        finally:
            sys.settrace(None)
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_line(number: int, files: tuple[str, ...] = WRITES) -> Callable[[], None]:
    """Make this process die before the ``number``-th line of the store's writing code."""
    left = number

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        file = frame.f_code.co_filename
        if not file.startswith(CODE) or not file.endswith(files):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return lambda: sys.settrace(trace)


ACTS: dict[str, Callable[[Path], object]] = {
    "replace": lambda world: open_store(world / "home").import_folder(world / "new", "toy"),
    "add": lambda world: open_store(world / "home").import_folder(world / "new", "org/fresh:v1"),
    "remove": lambda world: open_store(world / "home").remove("toy"),
}
VARIANT_ACTS: dict[str, Callable[[Path], object]] = {
    "add version": lambda world: open_store(world / "home").add_version("versed", "v", layer=world / "delta"),
    "first version": lambda world: open_store(world / "home").add_version("versed", "w", layer=world / "delta"),
    "publish": lambda world: open_store(world / "home").publish("versed@v", 3),
    "roll back": lambda world: open_store(world / "home").rollback("versed@v"),
    "remove variant": lambda world: open_store(world / "home").remove("versed@v"),
}


ALL_ACTS = ACTS | VARIANT_ACTS


@pytest.mark.parametrize("act", ALL_ACTS)
def test_killed_at_every_line(act: str, world: Path) -> None:
    if act in VARIANT_ACTS:
        add_variant(world)
    home, saved = world / "home", world / "saved"
    shutil.copytree(home, saved)
    old = content(home)
    ALL_ACTS[act](world)
    new = content(home)
    assert old != new
    seen_new, line = False, 0
    while True:
        line += 1
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        status = forked(lambda: ALL_ACTS[act](world), kill_at_line(line))
        assert status in (DONE, -signal.SIGKILL)
        after = content(home)
        assert after in (old, new), f"line {line}"
        assert after == new or not seen_new, f"line {line}: a later death brought the old state back"
        seen_new = after == new
        if status == DONE:
            break
        if line % 10 == 0:
            open_store(home).import_folder(world / "old", "another")
            assert_clean(home)
    assert seen_new and line > 30


def test_a_home_killed_while_it_is_made(tmp_path: Path) -> None:
    line, status = 0, -signal.SIGKILL
    while status != DONE:
        line += 1
        home = tmp_path / str(line)
        status = forked(lambda home=home: open_store(home), kill_at_line(line, ("atomic.py", "home.py")))
        assert content(home) == {}
    assert line > 20


CALLS = ("fsync", "replace", "link", "unlink", "mkdir", "open", "rmdir")


def fail_at_call(number: int, code: int) -> Callable[[], Callable[[], bool]]:
    """Make the ``number``-th call of os.CALLS fail once with ``code``; what it returns says whether it has."""
    left = number

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        return call

    def patch() -> Callable[[], bool]:
        for name in CALLS:
            setattr(os, name, failing(getattr(os, name)))
        return lambda: left <= 0

    return patch


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("act", ALL_ACTS)
def test_every_failing_call_is_an_error_and_changes_nothing_else(act: str, code: int, world: Path) -> None:
    if act in VARIANT_ACTS:
        add_variant(world)
    home, saved = world / "home", world / "saved"
    shutil.copytree(home, saved)
    old = content(home)
    ALL_ACTS[act](world)
    new = content(home)
    refused, number, status = 0, 0, DONE
    while status != NEVER_REACHED:
        number += 1
        shutil.rmtree(home)
        shutil.copytree(saved, home)
        status = forked(lambda: ALL_ACTS[act](world), fail_at_call(number, code))
        assert status in (DONE, REFUSED, NEVER_REACHED), f"call {number}: not an error of ours"
        after = content(home)
        assert after == new if status != REFUSED else after in (old, new), f"call {number}"
        refused += status == REFUSED
    assert refused > 2


@pytest.mark.parametrize("most_bytes", [0, 1, 30, 500, 4000])
def test_a_full_disk_is_an_error_and_the_old_model_stays(most_bytes: int, world: Path) -> None:
    old = content(world / "home")
    status = forked(
        lambda: ACTS["replace"](world), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    )
    assert status == REFUSED and content(world / "home") == old
    assert_clean(world / "home")


def test_no_space_is_said_before_anything_is_written(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(StoreError, match=r"no space: \d+ bytes are needed.* has 1 left"):
        ACTS["replace"](world)


def test_synced_before_it_is_renamed_and_the_manifest_is_last(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL keeps the page cache, a power cut does not: the order of the calls is what protects from it."""
    events: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        events.append(("fsync", str(Path(f"/proc/self/fd/{fd}").readlink())))
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        assert ("fsync", str(source)) in events, f"{target} was not synced"
        events.append(("replace", str(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    ACTS["add"](world)
    home = world / "home"
    manifest = str(home / "manifests" / "org--fresh" / "v1.json")
    blobs = [target for kind, target in events if kind == "replace" and "/blobs/" in target]
    synced = [i for i, event in enumerate(events) if event == ("fsync", str(home / "blobs"))]
    published = events.index(("replace", manifest))
    assert len(blobs) == 2
    assert max(events.index(("replace", blob)) for blob in blobs) < synced[0] < published
    assert ("fsync", str(home / "manifests")) in events[:published], "the new folder's own entry"
    assert ("fsync", str(home / "manifests" / "org--fresh")) in events[published:]


def test_no_sweep_comes_between_a_staging_folder_and_its_lock(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, real_flock, free = world / "home", fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        if "/.staging/" in str(Path(f"/proc/self/fd/{fd}").readlink()) and not operation & fcntl.LOCK_NB:
            with (home / "lock").open("r+") as other:
                try:
                    real_flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    free.append(True)
                except BlockingIOError:
                    free.append(False)
        real_flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    ACTS["add"](world)
    assert free == [False], "a sweep could take the store's lock here, and the folder for a dead one's"


def test_two_writers_and_a_sweep_do_not_hurt_each_other(world: Path) -> None:
    """Eight processes import and remove at once; in the end every manifest's blobs are whole."""
    children = []
    for worker in range(8):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store = open_store(world / "home")
                for turn in range(6):
                    store.import_folder(world / ("old", "new")[(worker + turn) % 2], f"m{worker}")
                    if turn % 2:
                        store.remove(f"m{worker}")
                store.import_folder(world / "new", f"m{worker}")
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert set(content(world / "home")) == {"toy:latest", "other:latest", *(f"m{i}:latest" for i in range(8))}
    assert_clean(world / "home")
