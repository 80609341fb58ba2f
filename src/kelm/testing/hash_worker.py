"""A worker process that runs the hash model whatever it is told to load: ``python -m kelm.testing.hash_worker``
with the arguments of ``python -m kelm.worker``. For tests of daemons and supervisors."""

from __future__ import annotations

import logging
import sys

from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.worker.command_line import parse
from kelm.worker.process import serve


def main() -> int:
    descriptor, settings = parse(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    return serve(descriptor, settings, open_hash_model(HashModel()))


if __name__ == "__main__":
    sys.exit(main())
