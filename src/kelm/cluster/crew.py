"""The processes of a sharded model's other stages: started here, told what is theirs, and ended with us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread

from kelm import limits
from kelm.clock import SYSTEM
from kelm.cluster.messages import ASSIGNMENT, Assignment, StageReport
from kelm.cluster.system import DistributedSystem
from kelm.errors import NodeFailed, by_code

_LOOK_S = 0.02
_WORDS = "see what it says above"


class Crew:
    """Stages 1 to ``nodes`` - 1 as child processes, and this process as stage 0 of ``system``."""

    def __init__(self, nodes: int, home: Path) -> None:
        """Raises NodeFailed when one of them does not come up."""
        self._folder = Path(tempfile.mkdtemp(prefix="kelm-cluster-"))  # 0700: who may join, may read it
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, nodes):
                self._processes.append(_start(rank, nodes, self._folder / "meet", home))
            self.system = self._join(nodes)
        except BaseException:
            self._end()
            raise

    def assign(self, assignment: Assignment) -> None:
        """Tell every stage its part; they load at the same time as this one."""
        self.system.store.put(ASSIGNMENT, assignment)

    def reports(self) -> list[StageReport]:
        """Of all stages, once they are ready. Raises what one of them was refused with, NodeFailed when one died."""
        found: list[StageReport] = []
        deadline_s = SYSTEM.monotonic_s() + limits.CLUSTER_LOAD_S.value
        for rank, process in enumerate(self._processes, 1):
            while (report := self.system.store.get(f"stage/{rank}", StageReport)) is None:
                if process.poll() is not None or SYSTEM.monotonic_s() > deadline_s:
                    raise NodeFailed(f"stage {rank} ({_state(process)}) did not load its layers; {_WORDS}")
                SYSTEM.sleep_s(_LOOK_S)
            if report.code:
                raise by_code(report.code)(f"stage {rank}: {report.message}")
            found.append(report)
        return found

    def dismiss(self) -> None:
        """After the stages were let go: wait for them, and end what does not leave."""
        self.system.close(wait=all(process.poll() is None for process in self._processes))
        self._end(patience_s=limits.WORKER_QUIT_S.value)

    def _join(self, nodes: int) -> DistributedSystem:
        """Join while looking whether a child has died, which is known sooner than that time is up."""
        joined: list[DistributedSystem | BaseException] = []

        def join() -> None:
            try:
                joined.append(DistributedSystem(0, nodes, self._folder / "meet"))
            except BaseException as error:
                joined.append(error)

        thread = Thread(target=join, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK_S)
            dead = next((rank for rank, one in enumerate(self._processes, 1) if one.poll() is not None), None)
            if dead is not None and not joined:
                raise NodeFailed(f"stage {dead} ({_state(self._processes[dead - 1])}) did not join; {_WORDS}")
        (result,) = joined
        if isinstance(result, BaseException):
            raise result
        return result

    def _end(self, patience_s: float = 0.0) -> None:
        for process in self._processes:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _start(rank: int, nodes: int, at: Path, home: Path) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name != "KELM_API_KEY"}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-m", "kelm.cluster.stage", str(rank), str(nodes), str(at)],
        env=kept | {"PYTHONPATH": path, "KELM_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,  # a terminal's Ctrl-C is for stage 0, which ends the others
    )


def _state(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    return f"pid {process.pid}" if code is None else f"pid {process.pid}, exit code {code}"
