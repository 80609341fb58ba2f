"""``python -m kelm.worker --memory-bytes N [--threads N ...] DESCRIPTOR``: see command_line.py."""

from __future__ import annotations

import logging
import os
import sys

from kelm.worker.command_line import parse
from kelm.worker.executors import Checkpoints
from kelm.worker.process import serve


def main() -> int:
    descriptor, settings = parse(sys.argv[1:])
    # Read by tensor libraries when they are imported. Threads that spin for one another lose eight times as much as
    # they gain once another program wants a core too (docs/log.md).
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    return serve(descriptor, settings, Checkpoints(settings))


if __name__ == "__main__":
    sys.exit(main())
