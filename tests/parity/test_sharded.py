"""One model over two processes gives the tokens that one process gives, whatever happens to sequences meanwhile."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import decoder_configs
import pytest
from parity_kit import save

from engine_kit import Shape, baseline, same, workload
from kelm import LLM, SamplingParams
from kelm.cluster.layers import equal_nodes, split
from kelm.cluster.leader import Leader, without_weights
from kelm.cluster.placement import Node
from kelm.cluster.sharded import ShardedLLM
from kelm.errors import InvalidRequest, NodeFailed, OutOfMemory
from kelm.models.loader import outline
from kelm.store import Store
from kelm.testing import checkpoints, tokenizers
from kelm.testing.drive import Driver
from kelm.worker.executors import Checkpoints
from kelm.worker.settings import EngineSettings

MIB = 1 << 20
TIGHT = {"wide": (1 << 16, 2), "gemma2": (1 << 12, 5), "gpt2": (1 << 12, 2)}
"""Bytes of a slab, and so few of them that sequences lose their blocks to one another."""
SMALL = EngineSettings(memory_bytes=64 * MIB, step_tokens=64, max_num_seqs=8, executor="torch")
"""Stages compute with torch; only one process that does too gives the same bits."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wide: a Llama of 6 layers that are most of its bytes. gemma2, gpt2: random ones of the parity tests."""
    folder = tmp_path_factory.mktemp("sharded")
    store = Store(folder / "home")
    wide = checkpoints.Shape(hidden_size=64, intermediate_size=192, num_hidden_layers=6)
    store.import_folder(checkpoints.write_llama(folder / "wide", shape=wide), "wide")
    for family in ("gemma2", "gpt2"):
        save(decoder_configs.build(family, 1), folder / family)
        tokenizers.write(folder / family)
        store.import_folder(folder / family, family)
    return folder / "home"


def _settings(home: Path, **more: object) -> dict[str, object]:
    return {"home": str(home), "memory": "192MiB", "threads": 1, "dtype": "float32", "executor": "torch", **more}


@pytest.mark.parametrize("name", ["wide", "gemma2", "gpt2"])
def test_the_same_tokens_with_forks_preemptions_and_shared_blocks(home: Path, name: str) -> None:
    store = Store(home)
    manifest = store.resolve(name)
    files = store.paths(manifest)
    model = outline(files, "float32")
    found = split(model, equal_nodes(2, 128 * MIB), SMALL)
    slab, slabs = TIGHT[name]
    tight = [replace(one, slab_bytes=slab, kv_bytes=slabs * slab) for one in found.settings]
    leader = Leader(store, manifest, model, replace(found, settings=tuple(tight)))
    requests = workload(random.Random(name), 14, Shape(vocab=model.spec.vocab))
    with closing(leader):
        sharded = Driver(tight[0], leader.open, without_weights(files))
        copies: list[tuple[int, int]] = []
        resident = sharded.engine._residency.get("model")
        told = resident.opened.copied
        object.__setattr__(resident.opened, "copied", lambda layout, a, b: (copies.append((a, b)), told(layout, a, b)))
        heard = sharded.run(requests)
    alone = Driver(SMALL, Checkpoints(SMALL), files).run(requests)
    same(heard, alone)
    baseline(heard)
    assert copies, "no fork had to copy a block: the workload is too tame"
    assert heard.counters is not None and heard.counters.preemptions > 0
    assert [stage.weight_bytes for stage in leader.stages] == [model.weight_bytes(part) for part in found.parts]


@pytest.fixture(scope="module")
def sharded(home: Path) -> Iterator[ShardedLLM]:
    with closing(ShardedLLM("wide", 2, **_settings(home))) as llm:
        yield llm


PROMPTS = ["The quick brown fox", "def main(" * 12, "x"]
GREEDY = SamplingParams(max_tokens=24, temperature=0)
SEEDED = SamplingParams(max_tokens=24, temperature=1.0, seed=5, n=2, logprobs=2, repetition_penalty=1.2)


def test_generate_gives_what_one_process_gives(home: Path, sharded: ShardedLLM) -> None:
    with closing(LLM("wide", **_settings(home))) as whole:
        for params in (GREEDY, SEEDED):
            assert sharded.generate(PROMPTS, params) == whole.generate(PROMPTS, params)
        halves = [stage.weight_bytes / whole.info.weight_bytes for stage in sharded.stages]
    assert all(0.4 < half < 0.62 for half in halves), halves
    assert [stage.layers for stage in sharded.stages] == [portion.layers for portion in sharded.plan.portions]
    assert sharded.info.executor == "sharded"
    pids = [stage.pid for stage in sharded.stages]
    assert pids[0] == os.getpid() and len(set(pids)) == 2


def test_a_stage_that_dies_is_named_and_nothing_hangs(home: Path) -> None:
    llm = ShardedLLM("wide", 2, **_settings(home))
    os.kill(llm.stages[1].pid, signal.SIGKILL)
    with pytest.raises(NodeFailed, match=rf"node 1 \(pid {llm.stages[1].pid} .*died or hangs"):
        llm.generate(PROMPTS, GREEDY)
    llm.close()


def test_closing_ends_the_other_processes(home: Path) -> None:
    llm = ShardedLLM("gpt2", 2, **_settings(home))
    pid = llm.stages[1].pid
    llm.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_unequal_nodes_get_unequal_parts(home: Path) -> None:
    fast, slow = Node(name="fast", power=5), Node(name="slow", power=1)
    with closing(ShardedLLM("wide", [slow, fast], **_settings(home))) as llm:
        assert [len(stage.layers) for stage in llm.stages] == [1, 5]
        assert [stage.node for stage in llm.stages] == ["slow", "fast"]
        assert llm.generate("x", GREEDY)[0].token_ids


def test_a_node_that_would_only_slow_the_others_down_gets_nothing(home: Path) -> None:
    nodes = [Node(name="fast", power=1000), Node(name="slow", power=1)]
    with closing(ShardedLLM("wide", nodes, **_settings(home))) as llm:
        assert [(stage.node, stage.pid) for stage in llm.stages] == [("fast", os.getpid())]
        assert llm.generate("x", GREEDY)[0].token_ids


def test_what_can_not_be_split_is_refused(home: Path) -> None:
    with pytest.raises(InvalidRequest, match="6 layers can't be split over 7 nodes: give at most 6"):
        ShardedLLM("wide", 7, **_settings(home))
    with pytest.raises(InvalidRequest, match="two nodes are called a"):
        ShardedLLM("wide", [Node(name="a", power=1), Node(name="a", power=1)], **_settings(home))
    with pytest.raises(InvalidRequest, match="power and bandwidth must be positive"):
        ShardedLLM("wide", [Node(name="a", power=0), Node(name="b", power=1)], **_settings(home))
    small = [Node(name=name, power=1, memory_bytes=MIB / 4) for name in "ab"]
    with pytest.raises(OutOfMemory, match="these nodes cannot hold"):
        ShardedLLM("wide", small, **_settings(home))
    large = [Node(name=name, power=1, memory_bytes=200 * MIB) for name in "ab"]
    with pytest.raises(OutOfMemory, match="this machine's budget"):
        ShardedLLM("wide", large, **_settings(home))


def test_a_stage_that_can_not_load_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store has another model under the name."""
    real = Leader._assignment

    def other(self: Leader, *arguments: object) -> object:
        import msgspec

        return msgspec.structs.replace(real(self, *arguments), digest="sha256:" + "0" * 64)  # type: ignore[arg-type]

    monkeypatch.setattr(Leader, "_assignment", other)
    with pytest.raises(InvalidRequest, match="stage 1: wide:latest is another model here"):
        ShardedLLM("wide", 2, **_settings(home))


def test_stages_end_when_the_first_one_is_killed(home: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from kelm.cluster.sharded import ShardedLLM\n"
        f"llm = ShardedLLM('wide', 2, **{_settings(home)!r})\n"
        "print(llm.stages[1].pid, flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdin is not None
    other = int(first.stdout.readline())
    first.kill()
    first.wait()
    first.stdout.close(), first.stdin.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() < deadline, "the other stage still runs"
        time.sleep(0.05)
