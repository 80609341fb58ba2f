"""Start-up order of the daemon, one line for each subsystem. The doors (serve/) are opened on what comes back."""

from __future__ import annotations

import asyncio
import logging

from kelm.clock import SYSTEM
from kelm.config import Settings
from kelm.errors import KelmError
from kelm.kernel.kernel import Kernel
from kelm.store import Store
from kelm.store.packaged import SOURCE

log = logging.getLogger(__name__)


async def boot(settings: Settings) -> Kernel:
    """A kernel that admits requests. Whoever boots it drains it: ``await kernel.drain(settings.drain_s)``.

    Raises StoreError (the home), ConfigError (another daemon has it), Unavailable (no worker comes up).
    """
    store = await asyncio.to_thread(Store, settings.home)  # KELM_HOME, migrated if it is older
    kernel = Kernel(settings, store, SYSTEM)  # one daemon for each home, from here to the end of its drain
    await kernel.start()  # watchdog, worker, admission
    await _warm(kernel, store)  # a model, so that a real step has run before anybody asks for one
    return kernel


async def _warm(kernel: Kernel, store: Store) -> None:
    """The smallest model of the package is resident from the start; a package without one starts empty."""
    shipped = [manifest for manifest in await asyncio.to_thread(store.list) if manifest.source == SOURCE]
    for manifest in sorted(shipped, key=lambda manifest: manifest.size_bytes)[:1]:
        try:
            await kernel.resolve(manifest.name)
        except KelmError as error:
            log.error("warm_up_failed model=%s code=%s reason=%r", manifest.name, error.code, error.message)
