"""A replica's daemon: `kelm serve` that ends with whoever started it.  python -m kelm.replicas.daemon

Settings come from the environment. Its standard input is a pipe that its owner holds open: when the owner is gone,
however it went, the pipe is closed and the daemon with it. No client is left talking to a daemon that nobody keeps.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from kelm import boot
from kelm.config import load_settings
from kelm.errors import KelmError


def main() -> int:
    threading.Thread(target=_end_with_owner, daemon=True).start()
    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    try:
        boot.run(settings)
    except KelmError as error:
        print(f"kelm: {error.message}", file=sys.stderr)
        return 1
    return 0


def _end_with_owner() -> None:
    while os.read(0, 1 << 16):
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # its worker and helper end with it


if __name__ == "__main__":
    sys.exit(main())
