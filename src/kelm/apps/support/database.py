"""FOLDER/.desk/desk.db: one SQLite file, one writer, one thread.

Write-ahead log with synchronous=FULL: what `write` returned from is on the disk, whatever kills the process after it.
Another process on the same folder is refused: the file ``lock`` is held for as long as the database is open.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from kelm.errors import ConfigError, StoreError

T = TypeVar("T")
Connection = sqlite3.Connection

VERSION = 1
SCHEMA = """
CREATE TABLE conversations(
    id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL UNIQUE, language TEXT NOT NULL, started REAL NOT NULL,
    pending TEXT
);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY AUTOINCREMENT, conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
    author TEXT NOT NULL CHECK(author IN ('customer', 'desk', 'person')), text TEXT NOT NULL, made TEXT,
    vote TEXT CHECK(vote IN ('up', 'down')), sent REAL NOT NULL
);
CREATE INDEX messages_of ON messages(conversation, id);
CREATE TABLE tickets(
    id INTEGER PRIMARY KEY AUTOINCREMENT, conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
    question TEXT NOT NULL, why TEXT NOT NULL, guess TEXT,
    state TEXT NOT NULL CHECK(state IN ('open', 'answered', 'closed')), opened REAL NOT NULL, changed REAL NOT NULL
);
CREATE UNIQUE INDEX one_ticket ON tickets(conversation) WHERE state != 'closed';
CREATE INDEX tickets_by_state ON tickets(state, id);
CREATE TABLE passages(
    id INTEGER PRIMARY KEY, article TEXT NOT NULL, anchor TEXT NOT NULL, title TEXT NOT NULL, heading TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE VIRTUAL TABLE passage_terms USING fts5(title, heading, body, tokenize = 'porter unicode61 remove_diacritics 2');
CREATE TABLE vectors(
    model TEXT NOT NULL, digest TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY(model, digest)
) WITHOUT ROWID;
"""


class Database:
    """Every statement runs in one thread, so the event loop never waits for the disk.

    Raises ConfigError when another process has the folder or a newer Kelm wrote it, StoreError when it can't be used.
    """

    def __init__(self, folder: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "desk-db")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = _lock(folder / "lock")
        except OSError as error:
            raise StoreError(f"{folder} can't be written: {error.strerror}; the desk keeps its tickets there") from None
        try:
            self._connection = self._thread.submit(_open, folder / "desk.db").result()
        except BaseException:
            os.close(self._lock)
            raise

    async def write(self, work: Callable[[Connection], T]) -> T:
        """``work`` in one transaction: all of it is on the disk when this returns, or nothing is."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, work)

    def close(self) -> None:
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()
        os.close(self._lock)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _failed(error) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return result

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            raise _failed(error) from error


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError("another `kelm support` serves this folder; end it, or copy the folder") from None
    return descriptor


def _open(path: Path) -> Connection:
    try:
        # Made with the thread that uses it; isolation_level None: transactions begin where we say so.
        connection = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > VERSION:
            raise ConfigError(f"this desk was written by a newer Kelm (format {found}, this one knows {VERSION})")
        if found < VERSION:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    except sqlite3.Error as error:
        raise _failed(error) from error
    return connection


def _failed(error: sqlite3.Error) -> StoreError:
    return StoreError(f"the desk's database failed: {error}; see whether its disk is full or read-only")
