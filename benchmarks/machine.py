"""This machine: what it is, whose the processor was, what a tree of processes holds in memory."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.record import Machine
from kelm import machine
from kelm.doctor import FEATURES

ROOT = Path(__file__).parents[1]
LARGE_BYTES = 64 << 20
TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> Machine:
    flags = machine.cpu_flags()
    return Machine(
        processor=machine.cpu_model(),
        cores=machine.affinity_cores(),
        features=" ".join(name for name in FEATURES if name in flags),
        memory_bytes=machine.memory_bytes()[0],
        kernel=platform.release(),
    )


def commit() -> str:
    """Short name of the commit, with a + where files differ from it (the results themselves aside)."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ":!docs"]
    changed = subprocess.run(status, capture_output=True, text=True, check=False)
    return (name.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, _read(children).split())
    return found


def held_bytes(pid: int) -> int:
    """Memory of a tree of processes: the sum of its proportional shares (PSS), as it would be if nobody else mapped the
    large files that it maps. Kelm's two contenders map one image, llama.cpp's one GGUF file."""
    total, files = 0, dict[str, int]()
    for one in tree(pid):
        for path, rss_bytes, pss_bytes in mappings(_read(Path(f"/proc/{one}/smaps"))):
            if path.startswith("/") and rss_bytes > LARGE_BYTES:
                files[path] = max(files.get(path, 0), rss_bytes)
            else:
                total += pss_bytes
    return total + sum(files.values())


def mappings(smaps: str) -> Iterator[tuple[str, int, int]]:
    """(path or name, resident bytes, proportional bytes) of each mapping in /proc/PID/smaps."""
    path, rss_bytes = "", 0
    for line in smaps.splitlines():
        first, *rest = line.split(None, 5)
        if first == "Rss:":
            rss_bytes = int(rest[0]) * 1024
        elif first == "Pss:":
            yield path, rss_bytes, int(rest[0]) * 1024
        elif not first.endswith(":"):
            path = rest[4] if len(rest) > 4 else ""


class Others:
    """Who else used the cores between two moments: busy time of the machine without this process's tree's."""

    def __init__(self) -> None:
        self._began = self._now()

    def share(self) -> float:
        """Of all cores, since the beginning."""
        busy, own, at_s = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return max(0.0, busy - own) / (at_s * (os.cpu_count() or 1))

    def _now(self) -> tuple[float, float, float]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = sum(fields) - fields[3] - fields[4]  # idle, iowait
        own = sum(map(_cpu_ticks, tree(os.getpid())))
        return busy / TICKS, own / TICKS, time.monotonic()


def wait_for_quiet(share: float, patience_s: float) -> None:
    """Until others take less than ``share`` of the machine for a second, or ``patience_s`` are over."""
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        others = Others()
        time.sleep(min(1.0, patience_s))
        if others.share() < share:
            return


def _cpu_ticks(pid: int) -> int:
    """Its own and that of its children that have ended."""
    text = _read(Path(f"/proc/{pid}/stat"))
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) if text else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
