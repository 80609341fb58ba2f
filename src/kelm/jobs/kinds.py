"""Which function does which kind of job. Rooms are imported when their kind is asked for: most bring torch."""

from __future__ import annotations

from typing import Any

from kelm.jobs.context import Context
from kelm.wire.jobs import Spec


def run(spec: Spec, context: Context) -> dict[str, Any]:
    """Do the job. Raises KelmError; Cancelled when it was asked to stop and has left a checkpoint."""
    raise NotImplementedError(spec)
