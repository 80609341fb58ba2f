"""One daemon for all tests of this folder that only talk to it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from daemon_kit import Daemon, daemon, make_home

# A shell gives what it starts with & no Ctrl-C; the commands under test are to have it anyhow.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("served")
    with daemon(make_home(folder)) as running:
        yield running
