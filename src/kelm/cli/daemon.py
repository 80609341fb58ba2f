"""Commands about the daemon itself: serve, shutdown; and starting one for a command that needs it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kelm.cli.client import Client, find, of_home
from kelm.cli.logs import log_path, make_room
from kelm.cli.ports import listener
from kelm.clock import SYSTEM
from kelm.config import Settings, load_settings
from kelm.errors import ConfigError, KelmError, Unavailable
from kelm.kernel import daemonfile
from kelm.limits import WORKER_START_S

_LOOK_S = 0.2
_START_S = 3 * float(WORKER_START_S.default or 60)
"""A daemon that is not ready by then never will be: the worker's own bound, tried again, and a first model."""
_ANSWER_S = 10
"""What a daemon may take to end beyond its drain."""


def serve(flags: Mapping[str, Any], model: str | None) -> None:
    """Run the daemon in the foreground until somebody ends it."""
    settings = load_settings(flags)
    _refuse_second(settings)
    if model is not None:
        from kelm.cli import shelf

        shelf.ensure(model)
    from kelm import boot

    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    failed: list[KelmError] = []
    if model is not None:
        threading.Thread(target=_bring_up, args=(settings, model, failed), daemon=True).start()
    try:
        boot.run(settings)
    except ConfigError as error:
        raise _naming_the_owner(error, settings) from None
    if failed:
        raise failed[0]


def detach(flags: Mapping[str, Any], model: str | None) -> None:
    """Run the daemon in the background; return when it is ready, and the model is in memory."""
    if model is not None:
        from kelm.cli import shelf

        shelf.ensure(model)
    client = start(flags)
    if model is not None:
        from kelm.cli import loading

        loading.bring_up(client, model)
    print(f"kelm is ready at {client.url}/v1; `kelm logs -f` shows its log, `kelm shutdown` ends it")


def start(flags: Mapping[str, Any]) -> Client:
    """A background daemon with these flags, ready.

    Raises ConfigError (it refused) or Unavailable (it failed), with its own last words.
    """
    settings = load_settings(flags)
    _refuse_second(settings)
    log = log_path(settings)
    make_room(log)
    given = {f"KELM_{name.upper()}": str(value) for name, value in flags.items() if value is not None}
    with log.open("ab") as stream:
        said_from = stream.tell()
        child = subprocess.Popen(  # flags go by the environment: a key must not be seen in a list of processes
            [sys.executable, "-m", "kelm.cli", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **given},
            start_new_session=True,
        )
    return _wait_ready(settings, child, log, said_from)


def shutdown() -> None:
    """Ask the daemon to end, and wait until it has."""
    settings = load_settings()
    client = find(settings)
    client.call("POST", "/admin/shutdown", {})
    deadline_s = SYSTEM.monotonic_s() + settings.drain_s + _ANSWER_S
    while client.alive() or of_home(settings) == client:
        if SYSTEM.monotonic_s() > deadline_s:
            raise Unavailable(f"the daemon at {client.url} was asked to end and is still there; see `kelm logs`")
        SYSTEM.sleep_s(_LOOK_S)
    print("the daemon has ended")


def _refuse_second(settings: Settings) -> None:
    owner = daemonfile.owner(settings.home)
    if owner is not None:
        raise ConfigError(
            f"a daemon runs already for {settings.home}: pid {owner.pid} at {owner.address}; "
            "`kelm shutdown` ends it, another KELM_HOME can have another"
        )


def _naming_the_owner(error: ConfigError, settings: Settings) -> ConfigError:
    """The same error; of a port that is in use, with who uses it."""
    owner = listener(settings.port) if error.param == "port" else None
    if owner is None:
        return error
    return ConfigError(f"{error.message} by {owner}; choose another with --port or KELM_PORT", param="port")


def _bring_up(settings: Settings, model: str, failed: list[KelmError]) -> None:
    """Thread of a foreground daemon: load ``model`` once the doors are open; a failure ends the daemon."""
    from kelm.cli import loading

    try:
        while (client := of_home(settings)) is None or not client.ready():
            SYSTEM.sleep_s(_LOOK_S)
        loading.bring_up(client, model)
    except KelmError as error:
        failed.append(error)
        os.kill(os.getpid(), signal.SIGTERM)


def _wait_ready(settings: Settings, child: subprocess.Popen[bytes], log: Path, said_from: int) -> Client:
    deadline_s = SYSTEM.monotonic_s() + _START_S
    while child.poll() is None:
        client = of_home(settings)
        if client is not None and client.ready():
            return client
        if SYSTEM.monotonic_s() > deadline_s:
            child.terminate()
            raise Unavailable(f"the daemon was not ready after {_START_S:.0f} seconds; see `kelm logs`")
        SYSTEM.sleep_s(_LOOK_S)
    with log.open("rb") as stream:
        stream.seek(said_from)
        lines = stream.read().decode(errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("kelm: ") if lines else f"it ended with code {child.returncode} and said nothing"
    raise (ConfigError if child.returncode == 2 else Unavailable)(f"the daemon did not start: {last}")
