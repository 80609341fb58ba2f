"""The support desk in trouble: killed, without a daemon, without a disk. What it acknowledged is there afterwards."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from daemon_kit import daemon, environment, make_home
from kelm.apps.support.database import Database
from kelm.errors import ConfigError, StoreError
from support_kit import FILES, ask, live, write_desk

BARE = "name: Shop\nmodels: {}\nthresholds: {passage: 0.3}\n"


def env_of(folder: Path) -> dict[str, str]:
    return environment(folder / "home")


def test_killed_after_a_ticket_was_acknowledged(tmp_path: Path) -> None:
    folder = write_desk(tmp_path / "desk", desk_yaml=BARE)
    with daemon(tmp_path / "home"):
        with live(folder, env_of(tmp_path)) as first:
            with first.customer() as http:
                assert ask(http, "Who won the match?")["made"]["route"] == "handover"
                os.kill(first.process.pid, signal.SIGKILL)
                cookies = dict(http.cookies)
            first.process.wait(10)
        with live(folder, env_of(tmp_path)) as second, second.person() as person:
            assert second.key == first.key
            (ticket,) = person.get("/desk/api/tickets").json()["tickets"]
            assert (ticket["question"], ticket["state"]) == ("Who won the match?", "open")
            person.post("/desk/api/tickets/1/reply", json={"text": "Nobody."})
            with httpx.Client(base_url=second.url, cookies=cookies, trust_env=False) as http:
                messages = http.get("/api/conversation").json()["messages"]
                assert [m["author"] for m in messages] == ["customer", "desk", "person"], "the page goes on"


def test_killed_in_the_middle_of_many_writes_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """A process writes numbered tickets and prints each number once `write` returned; it is killed while it does."""
    script = """
import asyncio, pathlib, sys
from kelm.apps.support import conversations, tickets
from kelm.apps.support.database import Database
from kelm.apps.support.made import Made
async def main():
    database = Database(pathlib.Path(sys.argv[1]))
    for number in range(100000):
        def work(db):
            found = conversations.begin(db, str(number), "en", 1.0)
            tickets.open_(db, found.id, str(number), Made("handover", why="asked_for"), 1.0)
        await database.write(work)
        print(number, flush=True)
asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(tmp_path / ".desk")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env_of(tmp_path)) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    database = Database(tmp_path / ".desk")
    database.close()
    with sqlite3.connect(tmp_path / ".desk" / "desk.db") as db:
        kept = [int(row[0]) for row in db.execute("SELECT question FROM tickets ORDER BY id")]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert kept[: len(said)] == said


async def test_what_is_written_is_synced(tmp_path: Path) -> None:
    database = Database(tmp_path / ".desk")
    pragmas = [await database.read(lambda db, n=n: db.execute(f"PRAGMA {n}").fetchone()[0]) for n in
               ("journal_mode", "synchronous", "foreign_keys")]  # fmt: skip
    database.close()
    assert pragmas == ["wal", 2, 1]
    assert (tmp_path / ".desk" / "desk.db").stat().st_mode & 0o077 == 0


async def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / ".desk")

    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO conversations(session, language, started) VALUES('a', 'en', 1)")
        raise KeyError("in the middle")

    def wrong(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO conversations(session, language, started) VALUES('b', 'en', 1)")
        db.execute("INSERT INTO messages(conversation, author, text, sent) VALUES(1, 'nobody', '', 1)")

    with pytest.raises(KeyError):
        await database.write(half)
    with pytest.raises(StoreError, match="CHECK constraint failed"):
        await database.write(wrong)
    assert await database.read(lambda db: db.execute("SELECT count(*) FROM conversations").fetchone()) == (0,)
    database.close()


def test_a_disk_that_is_full_acknowledges_nothing(tmp_path: Path) -> None:
    script = """
import asyncio, pathlib, resource, sys
from kelm.apps.support import conversations
from kelm.apps.support.conversations import Message
from kelm.apps.support.database import Database
from kelm.errors import StoreError
async def main():
    database = Database(pathlib.Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    done = 0
    try:
        while True:
            def work(db):
                found = conversations.begin(db, "a", "en", 1.0)
                db.execute("DELETE FROM messages WHERE id < 0")
                db.execute("INSERT INTO messages(conversation, author, text, sent) VALUES(?, 'customer', ?, 1)",
                           (found.id, "x" * 5000))
            await database.write(work)
            done += 1
    except StoreError as error:
        print(done, error.message)
    stored = await database.read(lambda db: db.execute("SELECT count(*) FROM messages").fetchone()[0])
    print(stored)
asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(tmp_path / ".desk")]
    ignored = lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # noqa: E731  (a write fails instead)
    done = subprocess.run(
        command, capture_output=True, text=True, env=env_of(tmp_path), preexec_fn=ignored, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, stored = done.stdout.splitlines()
    written, _, message = first.partition(" ")
    assert int(written) > 5 and stored == written
    assert "the desk's database failed" in message and "disk is full" in message
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_without_its_daemon_the_desk_hands_over(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    intents = FILES["intents.csv"].replace("status", "bad").replace("visit", "fair").replace("greeting", "good")
    templates = "answers: {bad: B, fair: F, good: G}\n"
    models = "name: Shop\nmodels: {classifier: cls, embedding: emb}\nthresholds: {intent: 0.0, passage: 0.0}\n"
    folder = write_desk(tmp_path / "desk", desk_yaml=models, intents_csv=intents, templates_yaml=templates)
    with ExitStack() as stack:
        kernel, desk = stack.enter_context(daemon(home)), stack.enter_context(live(folder, environment(home)))
        http, person = stack.enter_context(desk.customer()), stack.enter_context(desk.person())
        assert ask(http, "hello there")["made"]["route"] == "template"
        kernel.process.kill()
        kernel.process.wait()
        reply = ask(http, "and now?")
        assert (reply["made"]["route"], reply["made"]["why"]) == ("handover", "no_daemon")
        assert "can't be reached" in reply["text"]
        assert http.get("/api/conversation").json()["assistant"] is False
        assert [t["why"] for t in person.get("/desk/api/tickets").json()["tickets"]] == ["no_daemon"]
        assert http.get("/").status_code == 200
        stack.enter_context(daemon(home))  # on another port
        assert ask(http, "hello again")["made"]["route"] == "template"
        assert http.get("/api/conversation").json()["assistant"] is True


def test_one_process_for_one_folder(tmp_path: Path) -> None:
    database = Database(tmp_path / ".desk")
    with pytest.raises(ConfigError, match="another `kelm support` serves this folder"):
        Database(tmp_path / ".desk")
    database.close()
    Database(tmp_path / ".desk").close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Database(tmp_path / ".desk").close()
    with sqlite3.connect(tmp_path / ".desk" / "desk.db") as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(ConfigError, match=r"newer Kelm \(format 2, this one knows 1\)"):
        Database(tmp_path / ".desk")
    (tmp_path / ".desk" / "desk.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Database(tmp_path / ".desk")


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kelm.cli", "support", str(folder), *flags]
    env = env_of(folder.parent)
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def test_what_is_wrong_is_said_before_anything_is_started(tmp_path: Path) -> None:
    done = run(write_desk(tmp_path / "desk", desk_yaml="name: Shop\nmodel: {}\n"))
    assert done.returncode == 2
    assert done.stderr == "kelm: desk.yaml: unknown key 'model'; did you mean models?\n"
    assert not (tmp_path / "home").exists(), "no daemon was started"
    done = run(tmp_path / "desk", "--port", "65536")
    assert done.returncode == 2 and "port must be between 0 and 65535" in done.stderr


def test_it_starts_the_daemon_and_names_what_is_missing(tmp_path: Path) -> None:
    folder = write_desk(tmp_path / "desk")
    try:
        done = run(folder, "--port", "0")
        assert done.returncode == 2, done.stderr
        assert "there is no model base" in done.stderr.lower() or "base@intents" in done.stderr
        assert f"kelm tune base {folder / 'intents.csv'} --name intents --wait" in done.stderr
        assert (tmp_path / "home" / "run" / "daemon.json").exists()
    finally:
        env = env_of(tmp_path)
        subprocess.run([sys.executable, "-m", "kelm.cli", "shutdown"], env=env, timeout=60, check=False)
