"""The actor of one replica: owns a daemon, and answers with plain bytes. It runs in a Ray worker and imports no Ray."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kelm import limits
from kelm.clock import SYSTEM
from kelm.kernel import daemonfile

_LOOK_S = 0.1
_LAST_WORDS_BYTES = 4096


class Up(msgspec.Struct, frozen=True):
    """The daemon answers and has the model. ``error`` instead: why it does not."""

    url: str = ""
    actor: int = 0
    daemon: int = 0
    error: str = ""


class ReplicaActor:
    """``start`` once, then ``watch``; the daemon ends with this process, however that ends."""

    def __init__(self, home: str, model: str, settings: bytes) -> None:
        self._home, self._model = Path(home), model
        self._settings = msgspec.json.decode(settings, type=dict[str, str])
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> bytes:
        """An Up, when the daemon is ready and the model in its memory."""
        try:
            return msgspec.json.encode(self._start())
        except OSError as error:
            return msgspec.json.encode(Up(error=f"{error.strerror or error}"))

    def watch(self) -> int:
        """Return with the daemon's exit code when it has ended."""
        assert self._daemon is not None
        return self._daemon.wait()

    def _start(self) -> Up:
        log = self._home / "logs" / "daemon.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        given = {f"KELM_{name.upper()}": value for name, value in self._settings.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KELM_", "RAY_"))}
        with log.open("ab") as stream:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "kelm.replicas.daemon"],
                stdin=subprocess.PIPE,  # never written: its end is the news that we have ended
                stdout=stream,
                stderr=stream,
                env=kept | given | {"KELM_HOME": str(self._home), "KELM_PORT": "0", "KELM_HOST": "127.0.0.1"},
                process_group=0,
            )
        deadline_s = SYSTEM.monotonic_s() + limits.REPLICA_START_S.value
        while SYSTEM.monotonic_s() < deadline_s:
            if self._daemon.poll() is not None:
                return Up(error=f"the daemon ended with code {self._daemon.returncode}: {_last_words(log)}")
            owner = daemonfile.owner(self._home)
            if owner is not None and owner.pid == self._daemon.pid and self._ask(owner.address, "GET", "/ready"):
                why = self._load(owner.address)
                return Up(owner.address, os.getpid(), self._daemon.pid, why)
            SYSTEM.sleep_s(_LOOK_S)
        return Up(error=f"the daemon was not ready after {limits.REPLICA_START_S.value:g} s: {_last_words(log)}")

    def _load(self, url: str) -> str:
        """Bring the model up; what the daemon answers when it can't."""
        answer = self._call(url, "POST", "/admin/models/load", {"model": self._model})
        if answer is not None and answer[0] == 200:
            return ""
        return "it does not answer" if answer is None else answer[1].decode(errors="replace")[:500]

    def _ask(self, url: str, method: str, path: str) -> bool:
        answer = self._call(url, method, path)
        return answer is not None and answer[0] == 200

    def _call(self, url: str, method: str, path: str, body: object = None) -> tuple[int, bytes] | None:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        headers = {"content-type": "application/json"}
        if "api_key" in self._settings:
            headers["authorization"] = f"Bearer {self._settings['api_key']}"
        try:
            connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (http.client.HTTPException, OSError):
            return None
        finally:
            connection.close()


def _last_words(log: Path) -> str:
    lines = log.read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("kelm: ") if lines else "it said nothing"
