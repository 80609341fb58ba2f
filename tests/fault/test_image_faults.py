"""Whatever happens while an image is packed, there is the old one, the new one or none, and the next load has it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from images_kit import MODEL, source_of, write_checkpoint
from kelm.clock import SYSTEM
from kelm.errors import KelmError, StoreError
from kelm.models import images
from kelm.models.packing import Source
from kelm.ops import native
from kelm.store.image_header import Label
from kelm.store.images import ImageFile, Place

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a C++ compiler")

TESTS = Path(__file__).parents[1]
DONE, REFUSED = 0, 7


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return source_of(write_checkpoint(tmp_path / "model", "llama", 5))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return images.place(tmp_path / "images", MODEL, "int8")


def pack(place: Place, source: Source) -> images.Image:
    return images.ready_image(place, source, native.pool(1))


def old_layout(place: Place, source: Source) -> None:
    """What an earlier Kelm left here."""
    older = Place(place.images, Label(place.label.model, place.label.precision, "slots0.packed0"))
    images.build_image(older, source, native.pool(1))


def forked(act: Callable[[], object]) -> int:
    """Run ``act`` in a child; its exit status, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            act()
            status = DONE
        except KelmError:
            status = REFUSED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


CALLS = ("fsync", "replace", "mkdir", "open", "posix_fallocate", "unlink")


def at_call(number: int, act: Callable[[], None]) -> Callable[[], bool]:
    """Run ``act`` in place of, or before, the ``number``-th call that changes the disk; whether it ran."""
    left = number

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                act()
            return real(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))
    writes = images.images.Writer.write
    images.images.Writer.write = wrapped(writes)  # type: ignore[method-assign]
    return lambda: left <= 0


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def assert_whole_or_other(place: Place) -> bool:
    """Whether the image is there; if so it is whole."""
    try:
        file = ImageFile(place)
    except StoreError as error:
        assert "No such file" in error.message or "slots0" in error.message
        return False
    file.verify()
    return True


@pytest.mark.parametrize("before", ["nothing", "an old layout"])
def test_killed_at_every_call(before: str, place: Place, source: Source, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    images.build_image(images.place(wanted, MODEL, "int8"), source, native.pool(1))
    raw = images.place(wanted, MODEL, "int8").path.read_bytes()
    number, status, left_behind = 0, -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        number += 1
        shutil.rmtree(place.images, ignore_errors=True)
        if before == "an old layout":
            old_layout(place, source)

        def act(number: int = number) -> None:
            at_call(number, kill)
            pack(place, source)

        status = forked(act)
        whole = assert_whole_or_other(place)
        assert whole or status != DONE
        left_behind += any(place.images.glob("*/.tmp-*"))
        pack(place, source)  # the next load
        assert place.path.read_bytes() == raw
        assert sorted(path.name for path in place.folder.iterdir()) == ["image", "lock"], "what the dead one left"
    assert status == DONE and number > 10 and left_behind > 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_failing_call_is_an_error_and_leaves_what_was_there(code: int, place: Place, source: Source) -> None:
    old_layout(place, source)
    saved = place.path.read_bytes()
    number, refused, fired = 0, 0, True
    while fired:
        number += 1
        place.path.write_bytes(saved)

        def act(number: int = number) -> None:
            def fail() -> None:
                raise OSError(code, os.strerror(code))

            ran = at_call(number, fail)
            pack(place, source)
            os._exit(DONE if ran() else 8)

        status = forked(act)
        assert status in (DONE, REFUSED, 8), number
        fired = status != 8
        refused += status == REFUSED
        assert assert_whole_or_other(place) or place.path.read_bytes() == saved
        assert not list(place.folder.glob(".tmp-*"))
    assert refused > 5


@pytest.mark.parametrize("most_bytes", [0, 1, 100, 70_000, 140_000])
def test_a_full_disk_is_a_clear_error(most_bytes: int, place: Place, source: Source) -> None:
    old_layout(place, source)
    saved = place.path.read_bytes()
    assert len(saved) > 140_000

    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        Source.pack = None  # type: ignore[method-assign, assignment]  # said before the work is done
        with pytest.raises(StoreError, match=r"could not be packed: File too large; free space, or set KELM_HOME"):
            pack(place, source)

    assert forked(act) == DONE
    assert place.path.read_bytes() == saved and not list(place.folder.glob(".tmp-*"))


def test_no_space_is_said_before_anything_is_written(
    place: Place, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(StoreError, match=r"no space: \d+ bytes are needed.* has 1 left"):
        pack(place, source)
    assert [path.name for path in place.folder.iterdir()] == ["lock"]


def test_rubbish_is_packed_again_and_said(place: Place, source: Source, caplog: pytest.LogCaptureFixture) -> None:
    pack(place, source)
    good = place.path.read_bytes()
    for bad in (b"", b"rubbish" * 100, good[:-1], good[:70_000], good[:64] + b"{" * 100):
        place.path.write_bytes(bad)
        with pytest.raises(StoreError, match="packed again"):
            images.open_image(place)
        pack(place, source)
        assert place.path.read_bytes() == good
    assert caplog.text.count("image_unusable") >= 5


def test_synced_before_it_has_its_name(place: Place, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL keeps the page cache, a power cut does not."""
    events: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        real_fsync(fd)
        events.append(("fsync", str(Path(f"/proc/self/fd/{fd}").readlink())))

    def replace(temp: Path, target: Path) -> None:
        assert ("fsync", str(temp)) in events
        real_replace(temp, target)
        events.append(("replace", str(target)))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    pack(place, source)
    assert events[-2:] == [("replace", str(place.path)), ("fsync", str(place.folder))]
    assert ("fsync", str(place.images)) in events, "the folder's own entry"


# two at once

PACKER = """
    import sys
    from pathlib import Path
    from images_kit import MODEL, source_of
    from kelm.models import images, packing
    from kelm.ops import native

    model, folder, notes = map(Path, sys.argv[1:])
    real = packing.Source.pack

    def pack(self, tensor, pool, to):
        with notes.open("a") as file:
            file.write(tensor.name + chr(10))
        real(self, tensor, pool, to)

    packing.Source.pack = pack
    source = source_of({path.name: str(path) for path in model.iterdir()})
    image = images.ready_image(images.place(folder, MODEL, "int8"), source, native.pool(1))
    print(len(image.matrices) + len(image.vectors))
"""


def packers(count: int, tmp_path: Path, place: Place) -> list[subprocess.Popen[str]]:
    script = [sys.executable, "-c", textwrap.dedent(PACKER)]
    args = [str(tmp_path / "model"), str(place.images), str(tmp_path / "notes")]
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"}
    return [subprocess.Popen([*script, *args], env=env, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def test_two_processes_pack_one_image_once(tmp_path: Path, place: Place, source: Source) -> None:
    place.folder.mkdir(parents=True)
    with (place.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until both wait for it
        children = packers(2, tmp_path, place)
        waiting = {f"/proc/{child.pid}/fd" for child in children}
        deadline = SYSTEM.monotonic_s() + 60
        while not all(any(str(fd.resolve()).endswith("/lock") for fd in Path(fds).iterdir()) for fds in waiting):
            assert SYSTEM.monotonic_s() < deadline
            SYSTEM.sleep_s(0.02)
        assert not place.path.exists() and all(child.poll() is None for child in children)
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert said == [str(len(source.slots))] * 2
    packed = (tmp_path / "notes").read_text().split()
    assert sorted(packed) == sorted(source.slots), "each tensor once"
    ImageFile(place).verify()


def test_a_model_removed_while_its_image_is_packed_leaves_none(
    place: Place, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kelm.store.images import sweep

    def progress(done: int, total: int) -> None:
        sweep(place.images, set())

    with pytest.raises(StoreError, match="could not be packed"):
        images.ready_image(place, source, native.pool(1), progress)
    assert list(place.images.iterdir()) == []


def test_progress_reaches_the_end(place: Place, source: Source) -> None:
    seen: list[tuple[int, int]] = []
    images.ready_image(place, source, native.pool(1), lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) > 2
    assert seen[-1][0] == seen[-1][1] and {total for _, total in seen} == {seen[-1][1]}
