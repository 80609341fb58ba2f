"""`kelm support`: an application beside the daemon, which is started if none runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from kelm import limits
from kelm.cli import daemon
from kelm.cli.client import running
from kelm.config import load_settings


def support(folder: Path, wanted_host: str, port: int, tune: bool) -> None:
    """Read the desk first: what is wrong with it is said before anything is started."""
    from kelm.apps.support import desk as desks
    from kelm.apps.support.doors import Address
    from kelm.apps.support.server import Wanted, run

    limits.SUPPORT_PORT.check(port, field="port")
    desk = desks.read(folder)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for library in ("httpx2", "httpcore2"):
        logging.getLogger(library).setLevel("WARNING")
    settings = load_settings()
    if running(settings) is None:
        daemon.start({})

    def locate() -> Address | None:
        client = running(settings)
        return None if client is None else Address(client.url, client.api_key)

    run(desk, locate, Wanted(wanted_host, port, tune), lambda line: print(line, flush=True))
