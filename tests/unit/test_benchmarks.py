"""benchmarks/: the statistics, the line to the engines, the turns, and what is written of them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks import contenders, document, machine, record
from benchmarks.contenders import Absent, Driver, Target, read_facts, read_timing
from benchmarks.record import Facts, Row, Side, Timing
from benchmarks.statistics import Spread, best, ratio, spread
from benchmarks.turns import Turns
from benchmarks.workloads import WORKLOADS, Workload

SAVED = Path(__file__).parents[1] / "data" / "benchmarks" / "drivers.jsonl"
"""What each engine really said, a line of facts and a line of figures each."""
TARGET = Target("toy", "bf16", 1)
SMALL = Workload("decode", "decode", streams=1, prompt_tokens=4, tokens=5, figure="decode")


def facts(name: str, executor: str | None = None, weight_bytes: int = 1000) -> Facts:
    return Facts(
        name=name, version="1", runs_as="x", precision="bf16", weight_bytes=weight_bytes, kv="bf16", threads=1,
        executor=executor,
    )  # fmt: skip


def test_spread_and_ratio() -> None:
    assert spread([4, 1, 2, 3, 5]) == Spread(3, 1, 5, 2, 4)
    assert spread([7]) == Spread(7, 7, 7, 7, 7)
    found = ratio([10, 30, 20], [10, 10, 5])
    assert (found.value, found.least, found.most) == (2, 1, 4), "medians 20 and 10; rounds 1, 3, 4"
    found = ratio([1, 2, 4], [4, 4, 4], less_is_better=True)
    assert (found.value, found.least, found.most) == (2, 1, 4)
    for ours, theirs in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="rounds against"):
            ratio(ours, theirs)
    with pytest.raises(ValueError, match="no round"):
        spread([])
    assert best([[1, 9, 1], [2, 2, 2], [3, 0, 0]]) == 1
    assert best([[1, 9, 1], [2, 2, 2], [3, 0, 0]], less_is_better=True) == 2


def test_what_the_engines_said() -> None:
    lines = SAVED.read_text().splitlines()
    said = [(read_facts(a), read_timing(b)) for a, b in zip(lines[::2], lines[1::2], strict=True)]
    assert [one.name for one, _ in said] == ["llama.cpp", "OpenVINO GenAI", "vLLM", "Kelm", "Kelm executor"]
    assert [one.ours for one, _ in said] == [False, False, False, True, True]
    assert all(0 < timing.prefill_s < timing.total_s and timing.tokens == 68 for _, timing in said)
    for broken in ("", "{}", '{"prefill_s": "soon", "total_s": 1, "tokens": 1}', "Loading model ..."):
        with pytest.raises(msgspec.DecodeError):
            read_timing(broken)


def test_only_what_ran_native_is_called_native() -> None:
    assert facts("Kelm", "torch").label == "Kelm (torch)"
    assert facts("Kelm", "native").label == "Kelm (native)"
    assert facts("llama.cpp").label == "llama.cpp"


def test_figures_of_a_run() -> None:
    timing = Timing(prefill_s=2, total_s=10, tokens=1024)
    assert WORKLOADS["prefill512"].measure(timing) == 256
    assert WORKLOADS["decode"].measure(timing) == 128 / 8
    assert WORKLOADS["long8"].measure(timing) == 8 * 32 / 8
    assert WORKLOADS["streams16"].measure(timing) == 16 * 64 / 10
    assert (WORKLOADS["cold"].measure(timing), WORKLOADS["cold"].unit) == (10, "s")


def test_prompts_are_the_same_in_a_round_and_new_in_the_next() -> None:
    for workload in WORKLOADS.values():
        prompts = workload.prompts(3)
        assert [len(prompt) for prompt in prompts] == [workload.prompt_tokens] * workload.streams
        assert prompts == workload.prompts(3) != workload.prompts(4)
        assert len({tuple(prompt) for prompt in prompts}) == workload.streams


ENGINE = """
import sys
sys.path.insert(0, {drivers!r})
from line import open_line, serve
line = open_line()
print("an engine's own words")
def run(prompts, tokens):
    print("more of them")
    if tokens == 13:
        sys.exit(3)
    return 0.25, 0.5 * len(prompts)
serve(line, {facts!r}, run)
"""


def engine(folder: Path) -> Driver:
    script = folder / "engine.py"
    told = {**msgspec.to_builtins(facts("toy"))}
    script.write_text(ENGINE.format(drivers=str(contenders.DRIVERS), facts=told))
    return Driver([sys.executable, script, script])


def test_a_driver_is_asked_and_rests(tmp_path: Path) -> None:
    driver = engine(tmp_path)
    assert driver.start() == facts("toy")
    assert driver.run([[1, 2], [3, 4]], 8) == Timing(prefill_s=0.25, total_s=1.0, tokens=16)
    driver.rest(resting=True)
    _, status = os.waitpid(driver.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    driver.rest(resting=False)
    assert driver.run([[1]], 1).tokens == 1
    with pytest.raises(Absent, match="exit code 3"):
        driver.run([[1]], 13)
    driver.stop()


def test_what_is_not_built_is_absent() -> None:
    missing = Driver([sys.executable, "driver.py", contenders.PEERS / "models" / "no-such.gguf"])
    with pytest.raises(Absent, match=r"models/no-such\.gguf is not there"):
        missing.start()
    with pytest.raises(Absent, match="vLLM runs bf16"):
        contenders.vllm(Target("qwen05", "int4", 2))


class Player:
    """A contender that takes so long, and sees whether the others rest."""

    def __init__(self, own: Facts, takes_s: Callable[[], float], table: list[Player]) -> None:
        self.own, self.takes_s, self.table = own, takes_s, table
        self.resting, self.stopped, self.asked = False, False, list[tuple[int, list[list[int]]]]()
        table.append(self)

    def start(self) -> Facts:
        return self.own

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        assert not self.resting
        assert all(other.resting for other in self.table if other is not self and other.asked)
        self.asked.append((tokens, [list(prompt) for prompt in prompts]))
        return Timing(prefill_s=1, total_s=1 + self.takes_s(), tokens=tokens)

    def rest(self, *, resting: bool) -> None:
        self.resting = resting

    @property
    def pid(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        self.stopped = True


def test_turns() -> None:
    table: list[Player] = []
    slower = itertools.count(2)
    order: list[str] = []

    def gone(target: Target) -> Player:
        raise Absent("it is not built")

    def ours(target: Target) -> Player:
        return Player(facts("Kelm", "torch"), lambda: order.append("ours") or 1, table)  # type: ignore[func-returns-value]

    def peer(target: Target) -> Player:
        return Player(facts("peer"), lambda: order.append("peer") or next(slower), table)  # type: ignore[func-returns-value]

    found = Turns(SMALL, TARGET, 3, lambda text: None).play({"kelm": ours, "peer": peer, "gone": gone})
    assert order[2:] == ["ours", "peer", "peer", "ours", "ours", "peer"], (
        "after the warm-up, another one first each time"
    )
    assert [side.values for side in found.sides] == [[4, 4, 4], [4 / 3, 1, 4 / 5]]
    assert all(len(side.others) == 3 for side in found.sides)
    assert found.absent == {"gone": "it is not built"}
    assert len(found.bandwidth) == 6
    assert min(found.bandwidth) > 0
    assert table[0].asked[1:] == table[1].asked[1:] == [(5, SMALL.prompts(number)) for number in range(3)]
    assert all(player.stopped for player in table)
    with pytest.raises(Absent, match="Kelm does not run"):
        Turns(SMALL, TARGET, 1, lambda text: None).play({"peer": peer})
    assert all(player.stopped for player in table)


SMAPS = """55d0c6c00000-55d0c6c01000 r--p 00000000 fe:00 1234                       /usr/bin/python3.11
Size:                  4 kB
Rss:                   4 kB
Pss:                   1 kB
Pss_Dirty:             0 kB
7f0000000000-7f0040000000 r--p 00000000 fe:00 99                         /home/a b/model.gguf
Rss:             1048576 kB
Pss:              524288 kB
7f0050000000-7f0050001000 rw-p 00000000 00:00 0
Rss:                   8 kB
Pss:                   8 kB
"""


def test_memory() -> None:
    assert list(machine.mappings(SMAPS)) == [
        ("/usr/bin/python3.11", 4096, 1024),
        ("/home/a b/model.gguf", 1 << 30, 1 << 29),
        ("", 8192, 8192),
    ]
    before = machine.held_bytes(os.getpid())
    block = bytearray(os.urandom(1 << 20) * 64)
    assert machine.held_bytes(os.getpid()) - before > len(block) * 0.9


MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sum(held[::4096])
    print("mapped", flush=True)
    sys.stdin.read()
"""


def test_a_large_file_counts_whole_whoever_else_maps_it(tmp_path: Path) -> None:
    size_bytes = machine.LARGE_BYTES + (8 << 20)
    (tmp_path / "weights").write_bytes(bytes(size_bytes))
    command = [sys.executable, "-c", MAPS, str(tmp_path / "weights")]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for one in both:
            assert one.stdout is not None and one.stdout.readline() == b"mapped\n"
        assert size_bytes < machine.held_bytes(both[0].pid) < size_bytes + (32 << 20)
    finally:
        for one in both:
            one.communicate()


def row(**fields: object) -> Row:
    fast = Side(facts=facts("Kelm", "torch"), values=[30, 20, 10], held_bytes=1 << 20, others=[0.0] * 3)
    slow = Side(facts=facts("llama.cpp", weight_bytes=1100), values=[10, 10, 10], held_bytes=1 << 20, others=[0.0] * 3)
    usual = {
        "model": "qwen05", "precision": "bf16", "workload": "decode", "unit": "tok/s", "prompt_source": "random ids",
        "sides": [fast, slow], "bandwidth": [40_000.0], "machine": machine.describe(), "commit": "abc",
        "command": "make bench WHAT=decode", "date": "2026-01-01",
    }  # fmt: skip
    return msgspec.convert({**usual, **fields}, Row, from_attributes=True)


def test_the_document(tmp_path: Path) -> None:
    record.write(tmp_path / "benchmarks.json", [row()])
    document.write_document(tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "20.0 tok/s Kelm (torch) | 10.0 tok/s llama.cpp | 2.00 (1.00 to 3.00) |" in text
    assert "(native)" not in text
    assert "llama.cpp's by +10%" in text, "more than 3 % apart is not the same precision"
    assert "| 50% | 1,000 |" in text, "20 tok/s of 1,000 bytes at 40,000 bytes a second"
    assert "Not final" not in text
    assert "make bench WHAT=decode" in text
    assert (tmp_path / "images" / "benchmarks-qwen05.png").read_bytes().startswith(b"\x89PNG")


def test_a_disturbed_row_says_so(tmp_path: Path) -> None:
    sides = [msgspec.structs.replace(side, others=[0.0, 0.3, 0.2]) for side in row().sides]
    record.write(tmp_path / "benchmarks.json", [row(sides=sides), row(workload="prefill512")])
    document.write_document(tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "**Not final:** somebody else used the machine in 1 of 2 rows" in text
    assert "2.00 (1.00 to 3.00)\\* |" in text


def test_a_part_takes_the_place_of_what_it_repeats() -> None:
    old, other, new = row(commit="old"), row(precision="int8"), row(commit="new")
    assert record.merge([old, other], [new]) == [new, other]
