"""Start-up order of the daemon, one line for each subsystem, and its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import uvloop

from kelm.clock import SYSTEM
from kelm.config import Settings
from kelm.kernel.kernel import Kernel
from kelm.serve.server import bind, serve
from kelm.store import Store


def run(settings: Settings) -> None:
    """The daemon of ``settings.home``, in the foreground; returns when it was asked to end.

    Raises ConfigError (host, port, another daemon in this home), StoreError, Unavailable (no worker comes up).
    """
    listener = bind(settings)  # the port, so that a second daemon fails before anything is started
    settings = replace(settings, port=listener.getsockname()[1])

    async def main() -> None:
        store = Store(settings.home)  # KELM_HOME, migrated if it is older
        kernel = Kernel(settings, store, SYSTEM)  # text helper, tables, metrics; nothing runs yet
        await serve(kernel, store, settings, listener)  # doors, then the home's lock, the worker, a first model

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
