"""Start a job in the daemon, and watch it: its log as plain lines, a bar where there is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kelm.cli.client import Client, Json
from kelm.cli.logs import ENDS, job_texts
from kelm.cli.running import progress_of
from kelm.clock import SYSTEM
from kelm.errors import Cancelled, Unavailable, by_code

if TYPE_CHECKING:
    from rich.progress import Progress

_LOOK_S = 0.2


def start(client: Client, spec: Json, data: str | None) -> Json:
    """The job's row, once it is on the daemon's disk."""
    return client.call("POST", "/admin/jobs", {"spec": spec, "data": data})


def advice(pid: int) -> str:
    return f"`kelm logs -f {pid}` follows it, `kelm cancel {pid}` ends it"


def wait(client: Client, pid: int) -> Json:
    """Follow a job to its end; the result. Ctrl-C leaves the job running.

    Raises the error that the job failed with; Cancelled; Unavailable when the daemon goes away.
    """
    try:
        row = _follow(client, pid)
    except KeyboardInterrupt:
        print(f"\njob {pid} goes on in the daemon: {advice(pid)}", file=sys.stderr)
        raise
    except Unavailable as error:
        raise Unavailable(f"{error.message}; job {pid} is kept, and the next daemon goes on with it") from None
    if row["state"] == "failed":
        raise by_code(row["error"]["code"])(row["error"]["message"])
    if row["state"] == "cancelled":
        raise Cancelled(f"job {pid} was cancelled")
    result: Json = row["result"]
    return result


def _follow(client: Client, pid: int) -> Json:
    texts = job_texts(client, pid)
    with _bar() as bars:
        task = bars.add_task("waiting", total=None)
        while True:
            row = client.call("GET", f"/admin/jobs/{pid}")
            text = next(texts, "")
            if text:
                bars.console.out(text, end="", highlight=False)
            progress = row["progress"] or {}
            bars.update(
                task,
                description=f"{row['state']}  {progress_of({**row, 'error': None})}",
                completed=progress.get("done", 0),
                total=progress.get("total") or None,
            )
            if row["state"] in ENDS and not text:
                return row
            SYSTEM.sleep_s(_LOOK_S)


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar on stderr below the log's lines; without a terminal, the lines alone."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars
