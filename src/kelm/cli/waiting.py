"""Jobs as a command sees them: started through the daemon's door, and waited for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from kelm.cli.client import Client, Json
from kelm.clock import SYSTEM
from kelm.errors import Cancelled, by_code

_LOOK_S = 0.2


class Bar(Protocol):
    def __call__(self, done: int, total: int, note: str) -> None: ...


def wait(client: Client, pid: int) -> Json:
    """The job's result, once it is done; its progress is drawn on stderr meanwhile. An interrupt leaves it running.

    Raises what it failed with, and Cancelled.
    """
    try:
        with _bar(pid) as bar:
            while True:
                row = client.call("GET", f"/admin/jobs/{pid}")
                if row["state"] in ("done", "failed", "cancelled"):
                    return _result(row)
                progress = row["progress"] or {"done": 0, "total": 1, "note": row["state"]}
                bar(progress["done"], progress["total"], progress["note"])
                SYSTEM.sleep_s(_LOOK_S)
    except KeyboardInterrupt:
        print(f"job {pid} goes on: `kelm logs -f {pid}` follows it, `kelm cancel {pid}` ends it", file=sys.stderr)
        raise


def _result(row: Json) -> Json:
    if row["state"] == "done":
        result: Json = row["result"]
        return result
    if row["state"] == "failed":
        raise by_code(row["error"]["code"])(row["error"]["message"])
    raise Cancelled(f"job {row['pid']} was cancelled")


@contextmanager
def _bar(pid: int) -> Iterator[Bar]:
    """Nothing is drawn where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task: Any = bars.add_task(f"job {pid}", total=1)

        def show(done: int, total: int, note: str) -> None:
            bars.update(task, completed=done, total=total, description=f"job {pid}  {note}")

        yield show
