"""The kernels' threads: every piece once, nobody waits for a sleeper, and nothing breaks around them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kelm.errors import ConfigError
from kelm.ops import native, packed

pytestmark = pytest.mark.skipif(not native.available(), reason="installed without a C++ compiler")


def words(count: int) -> np.ndarray:
    data = packed.empty(8 * count)
    data[:] = np.random.default_rng(count).integers(0, 256, data.size)
    return data


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_every_piece_is_done_once(threads: int) -> None:
    """The xor of all words is wrong if one piece is missing, or done twice."""
    pool = native.pool(threads)
    assert pool.threads == threads
    for count in (0, 1, 7, 32768, 32769, 400_000):
        data = words(count)
        wanted = int(np.bitwise_xor.reduce(data.view(np.uint64))) if count else 0
        for _ in range(20):
            assert packed.read_all(pool, data) == wanted


def test_turns_of_several_callers() -> None:
    pool, data = native.pool(3), words(300_000)
    wanted = int(np.bitwise_xor.reduce(data.view(np.uint64)))
    found: list[int] = []

    def call() -> None:
        found.extend(packed.read_all(pool, data) for _ in range(50))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [wanted] * 200


def test_idle_threads_sleep() -> None:
    pool = native.pool(4)
    packed.read_all(pool, words(400_000))
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1, "threads spin without work"


def test_the_interpreter_goes_on_meanwhile() -> None:
    weights = packed.pack(native.pool(1), np.ones((2000, 2000), np.float32), "bf16")
    x, ended, pool, meanwhile = np.ones((300, 2000), np.float32), threading.Event(), native.pool(1), 0

    def call() -> None:
        packed.linear(pool, x, weights)
        ended.set()

    caller = threading.Thread(target=call)
    caller.start()
    while not ended.is_set():
        meanwhile += 1
        time.sleep(0.001)
    caller.join()
    assert meanwhile > 5


FORKED = """
import os, sys
import numpy as np
from kelm.ops import native, packed
pool = native.pool(3)
data = packed.empty(8 * 400_000)
data[:] = 3
data[:8] = 7
wanted = packed.read_all(pool, data)
for _ in range(5):
    child = os.fork()
    if child == 0:
        right = all(packed.read_all(pool, data) == wanted for _ in range(20))
        os._exit(0 if right else 1)
    assert packed.read_all(pool, data) == wanted
    assert os.waitpid(child, 0)[1] == 0
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_forked_child_has_threads_of_its_own() -> None:
    done = run(FORKED)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_with_its_pools_alive() -> None:
    script = "from kelm.ops import native; import builtins; builtins.kept = [native.pool(3) for _ in range(20)]"
    assert run(script).returncode == 0


def test_pools_come_and_go() -> None:
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    for _ in range(50):
        native.pool(3)
    assert len(list(tasks.iterdir())) <= before


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_pool_of_no_size_is_an_error(threads: int) -> None:
    with pytest.raises(ValueError, match=f"{threads} threads; a pool has 1 to 1024"):
        native.pool(threads)


def test_words_only() -> None:
    with pytest.raises(ValueError, match="whole words"):
        packed.read_all(native.pool(1), packed.empty(12))


def test_without_the_kernels_there_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_extension", lambda: None)
    with pytest.raises(ConfigError, match="install a C\\+\\+ compiler"):
        native.pool(2)
