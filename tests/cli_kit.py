"""A KELM_HOME and the real command in it, as a person has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kelm

ARGV = [sys.executable, "-m", "kelm.cli"]


@dataclass(frozen=True)
class Place:
    """A KELM_HOME and the commands in it. No port is set: commands find the daemon through the home."""

    root: Path
    extra: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(kelm.__file__).parents[1]),
            "KELM_HOME": str(self.root / "home"),
            "HF_HOME": str(self.root / "hf"),
            "KELM_THREADS": "1",
            "KELM_MEMORY": "512MiB",
            "TERM": "dumb",
            **self.extra,
        }

    def kelm(self, *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ARGV, *args],
            env={**self.env, **env},
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=100,
        )

    @property
    def url(self) -> str:
        """Of the running daemon."""
        return json.loads((self.root / "home" / "run" / "daemon.json").read_text())["address"]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return response.read()

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=100) as response:
            return json.loads(response.read())

    def rows(self, *args: str) -> list[dict]:
        done = self.kelm("ps", "--json", *args)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
