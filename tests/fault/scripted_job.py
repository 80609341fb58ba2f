"""The process of a job as it is, with a function that does what its data says instead of a kind's own.

    {"steps": 5, "die_at": [2, 2], "fail_at": 3, "take_bytes": 1 << 30, "wait": "file"}

A step is a number in the file ``step``, written as a checkpoint is. ``die_at``: SIGKILL before that step, once for each
entry. ``wait``: before each step until that file exists (or it is asked to stop).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from kelm.clock import SYSTEM
from kelm.context import Context
from kelm.errors import Cancelled, InvalidRequest
from kelm.jobs import kinds
from kelm.jobs.process import serve
from kelm.store.atomic import write_file
from kelm.wire.jobs import Spec


def run(spec: Spec, context: Context) -> dict[str, Any]:
    script = json.loads(context.data.read_text())
    starts = read(context, "starts")
    write_file(context.folder / "starts", str(starts + 1).encode())
    context.line(f"start {starts + 1}")
    for step in range(read(context, "step"), script["steps"]):
        wait(script, context)
        if context.stopping():
            raise Cancelled("asked to stop")
        if script.get("die_at", [])[starts : starts + 1] == [step]:
            os.kill(os.getpid(), signal.SIGKILL)
        if script.get("fail_at") == step:
            raise InvalidRequest("row 3 lacks label\n; add one")
        if script.get("break_at") == step:
            raise ZeroDivisionError("an inside of ours")
        if "take_bytes" in script:
            bytearray(script["take_bytes"])
        write_file(context.folder / "step", str(step + 1).encode())
        context.progress(step + 1, script["steps"], "step", loss=1 / (step + 1))
        context.line(f"step {step + 1}")
    return {"steps": script["steps"], "starts": starts + 1, "threads": os.environ["OMP_NUM_THREADS"]}


def read(context: Context, name: str) -> int:
    path = context.folder / name
    return int(path.read_text()) if path.exists() else 0


def wait(script: dict[str, Any], context: Context) -> None:
    while "wait" in script and not (context.folder / script["wait"]).exists() and not context.stopping():
        SYSTEM.sleep_s(0.01)


if __name__ == "__main__":
    kinds.run = run
    sys.exit(serve(int(sys.argv[1])))
