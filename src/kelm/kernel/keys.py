"""API keys: who may come in, as which tenant.

    KELM_HOME/keys.db   SQLite in WAL mode: `kelm key` writes while a daemon reads
    sk-kelm-ID-SECRET   ID (8 hex digits) names the row and may be shown; of the whole only the SHA-256 is kept. The
                        secret has 256 random bits, so that a slow hash would protect nothing more.

A write returns when it is on disk. A daemon sees it with the next request: SQLite counts changes, and what was read is
read again when the number is another.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kelm import limits
from kelm.clock import SYSTEM, Clock
from kelm.errors import InvalidRequest, NotFound, StoreError, Unauthorized
from kelm.store.atomic import disk_errors, locked, sync_folder
from kelm.store.home import Home

PREFIX = "sk-kelm-"
RESERVED = frozenset({"local", "kernel"})
"""Tenants that are no key's: the operator, and the daemon's own requests."""
_TENANT = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.TENANT_BYTES.most - 1}}}")
_NOBODY = bytes(32)
_BUSY_S = 5
_FORMAT = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS tenants (name TEXT PRIMARY KEY, weight INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenants (name), digest BLOB NOT NULL, created REAL NOT NULL,
    revoked REAL
);
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One row. ``created`` and ``revoked`` are Unix times; ``revoked`` is None while it opens doors."""

    id: str
    tenant: str
    digest: bytes
    created: float
    revoked: float | None = None


class Keys:
    """Of one KELM_HOME. Reading makes no file: without keys there is none."""

    def __init__(self, home: Path, clock: Clock = SYSTEM) -> None:
        self._path = home / "keys.db"
        self._home = home
        self._clock = clock
        self._reading: sqlite3.Connection | None = None
        self._version: int | None = None
        self._keys: dict[str, Key] = {}
        self._weights: dict[str, int] = {}

    # for the doors

    @property
    def exist(self) -> bool:
        """Whether any was ever made. Revoked ones count: revoking the last one must not open the doors to all."""
        self._refresh()
        return bool(self._keys)

    def check(self, given: bytes) -> Key:
        """The key that was given, compared in constant time. Raises Unauthorized, which says what to do."""
        self._refresh()
        identity = given.removeprefix(PREFIX.encode()).partition(b"-")[0].decode("latin-1")
        found = self._keys.get(identity)
        same = hmac.compare_digest(_digest(given), _NOBODY if found is None else found.digest)
        if found is None or not same:
            raise Unauthorized(
                "this API key is unknown here: `kelm key create TENANT` makes one, on the daemon's machine"
            )
        if found.revoked is not None:
            raise Unauthorized(
                f"the API key {found.id} was revoked: ask for another (`kelm key create {found.tenant}`)"
            )
        return found

    def weights(self) -> Mapping[str, int]:
        """Tenant -> weight, of every tenant with a key."""
        self._refresh()
        return self._weights

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    # for the operator

    def create(self, tenant: str, weight: int | None = None) -> tuple[Key, str]:
        """A new key and, only here, its text. ``weight`` is the tenant's, for all of its keys; None leaves it as it is.

        Raises InvalidRequest, StoreError.
        """
        _check_tenant(tenant)
        if weight is not None:
            limits.WEIGHT.check(weight)
        identity = secrets.token_hex(4)
        text = f"{PREFIX}{identity}-{secrets.token_urlsafe(32)}"
        key = Key(identity, tenant, _digest(text.encode()), self._clock.wall_s())
        with self._writing() as database:
            count = database.execute("SELECT count(*) FROM keys WHERE revoked IS NULL").fetchone()[0]
            if count >= limits.KEYS.most:
                raise InvalidRequest(f"there are {count} keys, the limit is {limits.KEYS.most}: revoke some first")
            database.execute(
                "INSERT INTO tenants VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET weight = coalesce(?, weight)",
                (tenant, weight or limits.WEIGHT.value, weight),
            )
            database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, NULL)", (identity, tenant, key.digest, key.created))
        return key, text

    def revoke(self, identity: str) -> Key:
        """It opens nothing from the next request on. Revoking twice changes nothing. Raises NotFound, StoreError."""
        if identity not in {key.id for key in self.list()}:
            raise NotFound(f"there is no key {identity:.40}; `kelm key list` shows their ids")
        with self._writing() as database:
            database.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (self._clock.wall_s(), identity)
            )
        return next(key for key in self.list() if key.id == identity)

    def list(self) -> list[Key]:
        """All of them, in order of creation."""
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: key.created)

    # the database

    def _refresh(self) -> None:
        try:
            if self._reading is None:
                if not self._path.exists():
                    return
                self._reading = self._connect()
            version = self._reading.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version and self._formatted(self._reading):
                keys = [Key(*row) for row in self._reading.execute("SELECT * FROM keys")]
                self._weights = dict(self._reading.execute("SELECT name, weight FROM tenants"))
                self._keys, self._version = {key.id: key for key in keys}, version
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"the API keys can't be read ({error}); check {self._path.name} in KELM_HOME") from None

    def _formatted(self, database: sqlite3.Connection) -> bool:
        """False: its writer has only begun. Raises StoreError for a newer Kelm's."""
        found = int(database.execute("PRAGMA user_version").fetchone()[0])
        if found > _FORMAT:
            raise StoreError(f"the API keys were written by a newer Kelm (format {found}): upgrade Kelm")
        return found == _FORMAT

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; when it is left without an error it is on disk."""
        Home(self._home)
        with disk_errors("the key was not saved"), locked(self._home / "keys.lock"):
            fresh = not self._path.exists()
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            try:
                database = self._connect()
                try:
                    if not self._formatted(database):
                        database.executescript(_SCHEMA)
                    database.execute("BEGIN IMMEDIATE")
                    with database:
                        yield database
                finally:
                    database.close()
            except sqlite3.Error as error:
                raise StoreError(f"the key was not saved ({error}); free space in KELM_HOME and try again") from None
            if fresh:
                sync_folder(self._home)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        with suppress(sqlite3.OperationalError):  # somebody else is just doing it
            database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        return database


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _check_tenant(tenant: str) -> None:
    if not _TENANT.fullmatch(tenant):
        raise InvalidRequest(
            f"a tenant is 1 to {limits.TENANT_BYTES.most} letters, digits, '.', '_' or '-', and begins with a letter "
            f"or a digit; got {limits.shown(tenant)}",
            param="tenant",
        )
    if tenant in RESERVED:
        raise InvalidRequest(f"the tenant {tenant} is Kelm's own; choose another name", param="tenant")
