"""API keys on disk: what is kept of them, who sees a change when, and that a bad day loses none."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kelm import limits
from kelm.clock import ManualClock
from kelm.errors import InvalidRequest, NotFound, StoreError, Unauthorized
from kelm.kernel import keys as module
from kelm.kernel.keys import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "home", ManualClock(1000.0))


def test_a_key_opens_as_its_tenant_and_only_its_hash_is_kept(keys: Keys, tmp_path: Path) -> None:
    key, text = keys.create("alice", 2)
    assert text.startswith(f"sk-kelm-{key.id}-") and len(text) > 50
    assert keys.check(text.encode()).tenant == "alice"
    assert keys.weights() == {"alice": 2}
    secret = text.removeprefix(f"sk-kelm-{key.id}-").encode()
    kept = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    pieces = [secret[at : at + 12] for at in range(len(secret) - 11)]
    assert not any(piece in data for piece in pieces for data in kept)
    for path in (tmp_path / "home").glob("keys.*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_two_keys_are_never_the_same(keys: Keys) -> None:
    assert len({keys.create("alice")[1] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "wrong",
    ["", "sk-kelm-", "sk-kelm-xxxxxxxx-yyyy", "Bearer", "sk-kelm-\xff", "\x00", "a" * 5000, "SAME", "CUT", "LONG"],
)
def test_anything_else_opens_nothing_and_says_what_to_do(keys: Keys, wrong: str) -> None:
    _, text = keys.create("alice")
    wrong = {"SAME": text.upper(), "CUT": text[:-1], "LONG": text + "x"}.get(wrong, wrong)
    with pytest.raises(Unauthorized, match="kelm key create"):
        keys.check(wrong.encode())


def test_the_right_name_with_the_secret_of_another_key_opens_nothing(keys: Keys) -> None:
    (alice, mine), (bob, _) = keys.create("alice"), keys.create("bob")
    with pytest.raises(Unauthorized):
        keys.check(mine.replace(alice.id, bob.id).encode())


def test_a_comparison_takes_the_same_time_whatever_is_given(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an id is known or not, digests of one length are compared, by hmac.compare_digest and nothing else."""
    compared: list[tuple[int, int]] = []
    right = module.hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return right(one, other)

    _, text = keys.create("alice")
    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    for given in (text.encode(), b"sk-kelm-00000000-x", b"", b"rubbish"):
        try:
            keys.check(given)
        except Unauthorized:
            continue
    assert compared == [(32, 32)] * 4


def test_another_process_sees_new_revoked_and_reweighted_keys_at_once(tmp_path: Path) -> None:
    daemon, operator = Keys(tmp_path), Keys(tmp_path)
    assert not daemon.exist and list(tmp_path.iterdir()) == [], "looking makes no file"
    key, text = operator.create("alice")
    assert daemon.exist and daemon.check(text.encode()).id == key.id
    operator.create("alice", 7)
    assert daemon.weights() == {"alice": 7}
    operator.create("alice")
    assert daemon.weights() == {"alice": 7}, "a key without a weight leaves it as it is"
    assert operator.revoke(key.id).revoked is not None
    with pytest.raises(Unauthorized, match=f"{key.id} was revoked"):
        daemon.check(text.encode())
    assert daemon.exist, "revoked keys keep the doors closed"


def test_revoking_twice_keeps_the_first_time_and_an_unknown_id_is_named(tmp_path: Path) -> None:
    clock = ManualClock(1.0)
    keys = Keys(tmp_path, clock)
    key, _ = keys.create("alice")
    clock.advance(5)
    assert keys.revoke(key.id).revoked == 6.0
    clock.advance(5)
    assert keys.revoke(key.id).revoked == 6.0
    with pytest.raises(NotFound, match="nothere"):
        keys.revoke("nothere")
    with pytest.raises(NotFound):
        Keys(tmp_path / "empty").revoke(key.id)


@pytest.mark.parametrize("tenant", ["", "a b", "-a", ".a", "a/b", "a\n", "é", "x" * 65, "local", "kernel", "a\x00"])
def test_names_that_are_no_tenants(keys: Keys, tenant: str) -> None:
    with pytest.raises(InvalidRequest, match="tenant"):
        keys.create(tenant)
    assert not keys.exist


@pytest.mark.parametrize("weight", [0, -1, 1001, 1.5, True, "2"])
def test_weights_out_of_range(keys: Keys, weight: int) -> None:
    with pytest.raises(InvalidRequest, match="weight"):
        keys.create("alice", weight)
    assert not keys.exist


def test_the_number_of_keys_is_bounded_and_revoking_makes_room(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEYS", limits.Bound("keys", 0, 2, None, "keys", ""))
    key, _ = keys.create("alice")
    keys.create("bob")
    with pytest.raises(InvalidRequest, match="the limit is 2"):
        keys.create("carol")
    keys.revoke(key.id)
    keys.create("carol")
    assert len(keys.list()) == 3


def test_an_acknowledged_key_survives_kill_9(tmp_path: Path) -> None:
    """A child makes keys and says so; it is killed while it makes the next ones."""
    code = (
        "import sys; from pathlib import Path; from kelm.kernel.keys import Keys; keys = Keys(Path(sys.argv[1]))\n"
        "while True: print(keys.create('alice')[1], flush=True)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(5)]
        child.kill()
        told += [line.strip() for line in child.stdout if line.endswith(b"\n")]
    assert child.returncode == -signal.SIGKILL
    after = Keys(tmp_path)
    assert [after.check(text).tenant for text in told] == ["alice"] * len(told)
    after.create("bob")


def test_writes_are_synced_before_they_are_acknowledged(keys: Keys) -> None:
    keys.create("alice")
    with keys._writing() as database:
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert database.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: the log is synced at each commit


def test_a_full_disk_is_an_error_and_the_keys_that_were_there_stay(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    _, text = keys.create("alice")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(StoreError, match="not saved"):
            Keys(tmp_path).create("bob")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert keys.check(text.encode()).tenant == "alice" and keys.weights() == {"alice": 1}
    keys.create("bob")


def test_a_file_that_its_writer_has_only_begun_holds_no_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.db").touch()
    keys = Keys(tmp_path)
    assert not keys.exist and keys.list() == []
    Keys(tmp_path).create("alice")
    assert keys.exist


def test_a_damaged_or_newer_file_opens_nothing(tmp_path: Path) -> None:
    for name, prepare in (("damaged", _damage), ("newer", _newer)):
        home = tmp_path / name
        _, text = Keys(home).create("alice")
        prepare(home / "keys.db")
        keys = Keys(home)
        for look in (lambda keys=keys: keys.exist, lambda keys=keys, text=text: keys.check(text.encode())):
            with pytest.raises(StoreError):
                look()


def _damage(path: Path) -> None:
    path.write_bytes(b"rubbish " * 2000)


def _newer(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
