"""Start-up order of the daemon, one line for each subsystem. The doors (serve/) are opened on what comes back."""

from __future__ import annotations

import asyncio

from kelm.clock import SYSTEM
from kelm.config import Settings
from kelm.kernel.kernel import Kernel
from kelm.store import Store


async def boot(settings: Settings) -> Kernel:
    """A kernel that admits requests. Whoever boots it drains it: ``await kernel.drain(settings.drain_s)``.

    Raises StoreError (the home), ConfigError (another daemon has it), Unavailable (no worker comes up).
    """
    store = await asyncio.to_thread(Store, settings.home)  # KELM_HOME, migrated if it is older
    kernel = Kernel(settings, store, SYSTEM)  # text helper, tables, metrics; nothing runs yet
    await kernel.start()  # the home's lock, watchdog, worker, admission, a first model
    return kernel
