"""Which function does which kind of job. Rooms are imported when their kind is asked for: most bring torch."""

from __future__ import annotations

from typing import Any

from kelm.context import Context
from kelm.wire.jobs import Compress, Evaluate, Spec, Tune


def run(spec: Spec, context: Context) -> dict[str, Any]:
    """Do the job. Raises KelmError; Cancelled when it was asked to stop and has left a checkpoint."""
    match spec:
        case Tune():
            from kelm.tune import job as tune

            return tune.run(spec, context)
        case Compress():
            from kelm.compress import run as compress

            return compress.run(spec, context)
        case Evaluate():
            from kelm.evaluate import job as evaluate

            return evaluate.run(spec, context)
