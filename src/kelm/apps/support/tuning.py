"""The classifier of desk.yaml, tuned on intents.csv when the store does not have it: the job of `kelm tune`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kelm.apps.support.desk import Desk
from kelm.apps.support.doors import Doors, Json
from kelm.apps.support.examples import read_text
from kelm.errors import ConfigError, KelmError, ModelNotFound

_LOOK_S = 0.5
_ENDED = ("done", "failed", "cancelled")


async def tune(desk: Desk, doors: Doors, say: Callable[[str], None]) -> None:
    """Nothing when the variant is there. Ending this program does not end the job: `kelm cancel` does.

    Raises ConfigError for a classifier that is no variant, KelmError with the job's last words when it fails.
    """
    name = desk.models.classifier or ""
    base, _, variant = name.partition("@")
    if not base or not variant:
        raise ConfigError(f"--tune makes a variant, and desk.yaml's classifier is {name or 'none'}; write base@variant")
    try:
        await doors.made(name)
        return
    except ModelNotFound:
        await doors.made(base)
    file = "intents.csv"
    spec = {"kind": "tune", "base": base, "variant": variant, "file": file, **desk.tuning}
    row = await doors.call("POST", "/admin/jobs", {"spec": spec, "data": read_text(desk.folder / file)})
    say(f"tuning {name} on {file}: `kelm ps` shows job {row['pid']}, `kelm cancel {row['pid']}` ends it")
    told = ""
    while row["state"] not in _ENDED:
        await asyncio.sleep(_LOOK_S)
        row = await doors.call("GET", f"/admin/jobs/{row['pid']}")
        told = _tell(row, told, say)
    if row["state"] != "done":
        raise KelmError(f"tuning {name} {row['state']}: {row.get('error') or 'its log says why'}")


def _tell(row: Json, told: str, say: Callable[[str], None]) -> str:
    """Say how far the job is, if that is news."""
    progress = row.get("progress") or {}
    line = f"tuning: {progress.get('done')} of {progress.get('total')} {progress.get('note') or ''}".rstrip()
    if progress and line != told:
        say(line)
        return line
    return told
