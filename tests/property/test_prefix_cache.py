"""memory/prefix.py: hits are exact whatever the hash does, salts never meet, and cached blocks cost nobody anything."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_kit import ROOMY, Shape, alone, baseline, same, workload
from kelm.memory.block_pool import BlockPool
from kelm.memory.layout import BlockLayout
from kelm.memory.prefix import Hash, PrefixCache, chain_hash
from kelm.memory.tables import Tables
from kelm.testing.drive import Driver
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.wire.messages import Load, Sampling, Submit
from kelm.worker.settings import EngineSettings

FULL, WINDOW = BlockLayout(4, 100, 4), BlockLayout(4, 100, 4, window=6)
GREEDY = Sampling(seed=0, max_tokens=4, temperature=0.0)


class NoPages:
    def copy(self, layout: BlockLayout, source: int, target: int) -> None: ...

    def poison(self, layout: BlockLayout, block: int) -> None: ...


class House:
    """A pool, one model's groups and their cache."""

    def __init__(self, *layouts: BlockLayout, slabs: int = 10, make_hash: Hash = chain_hash) -> None:
        self.pool = BlockPool(slabs, 400, NoPages())
        self.groups = tuple(self.pool.add_group(layout) for layout in layouts)
        self.cache = PrefixCache(self.pool, self.groups, make_hash)

    def compute(self, tokens: list[int], salt: bytes = b"", chunk: int = 1000) -> tuple[int, Tables]:
        """As the engine does it; returns how many tokens were cached, and the tables."""
        tables = Tables(self.pool, self.groups)
        cached = computed = self.cache.adopt(tables, salt, tokens, len(tokens) - 1)
        while computed < len(tokens):
            end = min(len(tokens), computed + chunk)
            assert tables.grow(computed, end)
            computed = end
            self.cache.extend(tables, tokens, computed)
        self.pool.check()
        return cached, tables

    def hits(self, tokens: list[int], salt: bytes = b"") -> int:
        cached, tables = self.compute(tokens, salt)
        tables.release()
        self.pool.check()
        return cached


def test_whole_blocks_of_the_same_beginning_are_found_but_never_the_last_token() -> None:
    house = House(FULL)
    assert house.hits(list(range(12))) == 0
    assert house.hits(list(range(12))) == 8
    assert house.hits([*range(12), 99]) == 12
    assert house.hits([*range(7), 99, 8, 9]) == 4
    assert house.hits([99, *range(1, 12)]) == 0


def test_salts_never_meet() -> None:
    house = House(FULL)
    prompt = list(range(20))
    assert house.hits(prompt, b"a") == 0
    assert house.hits(prompt, b"b") == 0
    assert house.hits(prompt, b"a") == 16
    long = b"x" * 64
    assert house.hits(prompt, long + b"1") == 0
    assert house.hits(prompt, long + b"2") == 0, "the hash takes 64 bytes of a salt, the comparison all"


def test_cached_blocks_count_as_free_and_the_oldest_go_first() -> None:
    house = House(FULL, slabs=3)
    old, new = [1] * 17, [2] * 17
    house.hits(old)
    house.hits(new)
    assert house.pool.counts() == (12, 12)
    assert house.hits([3] * 17) == 0  # takes 5 blocks: 4 are empty, so one of the old ones goes, its last
    assert house.hits(new) == 16
    assert house.hits(old) == 12
    assert house.pool.free_bytes() == 3 * 400


@pytest.mark.parametrize("make_hash", [lambda parent, tokens: b"same", lambda parent, tokens: bytes([sum(tokens) % 3])])
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), max_size=12))
def test_collisions_are_misses(make_hash: Hash, prompts: list[list[int]]) -> None:
    """Blocks found are those that were computed for exactly these tokens."""
    house = House(FULL, slabs=40, make_hash=make_hash)
    computed: dict[int, list[int]] = {}
    for tokens in prompts:
        cached, tables = house.compute(tokens)
        for index, block in enumerate(tables.views(len(tokens))[0].tolist()):
            if (index + 1) * 4 <= cached:
                assert computed[block] == tokens[: (index + 1) * 4]
            else:
                computed[block] = tokens[: (index + 1) * 4]
        tables.release()


def test_a_window_needs_only_the_blocks_that_its_next_row_sees() -> None:
    house = House(FULL, WINDOW)
    prompt = list(range(21))
    assert house.hits(prompt) == 0
    assert house.hits(prompt) == 20
    cached, tables = house.compute(prompt)
    full, window = tables.views(20)
    assert cached == 20
    assert (full >= 0).all()
    assert window.tolist()[:3] == [-1, -1, -1]  # the row at 20 sees 15 ... 20: from block 3 on
    assert (window[3:] >= 0).all()
    tables.release()


def test_a_window_block_gone_shortens_the_hit() -> None:
    house = House(FULL, WINDOW, slabs=6)
    prompt = list(range(21))
    house.hits(prompt)
    squeeze = [house.pool.take(house.groups[1]) for _ in range(10)]  # takes the window's idle blocks
    for block in squeeze:
        if block is not None:
            house.pool.drop(house.groups[1], block)
    cached, tables = house.compute(prompt)
    first = WINDOW.first_live(cached)
    assert all((numbers[first : cached // 4] >= 0).all() for numbers in tables.views(max(cached, 1)))
    tables.release()
    house.pool.check()


def make(kind: EngineSettings) -> Driver:
    return Driver(kind, open_hash_model(HashModel(101)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 30))
def test_shared_beginnings_in_a_tiny_pool_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    stem = [rng.randrange(101) for _ in range(64)]
    requests = [
        msgspec.structs.replace(request, prompt=stem[: rng.choice([0, 16, 33, 64])] + request.prompt)
        for request in workload(rng, 12, Shape(101, longest_prompt=40))
    ]
    kind = EngineSettings(
        memory_bytes=1 << 20,
        kv_bytes=rng.randint(10, 16) * 2048,
        slab_bytes=2048,
        step_tokens=rng.choice([16, 23, 64]),
        max_num_seqs=rng.choice([2, 8, 64]),
        poison=True,
    )
    late = requests[5:]

    def trickle(driver: Driver, step: int) -> None:
        if late and (rng.random() < 0.3 or not driver.engine.has_work()):
            driver.engine.submit(late.pop(0))

    heard = make(kind).run(requests[:5], between=trickle)
    same(heard, alone(make, requests))
    baseline(heard)


def test_the_engine_reports_what_was_cached() -> None:
    driver = make(ROOMY)
    prompt = list(range(50))

    def run(pid: int, **fields: object) -> int:
        submit = Submit(**({"pid": pid, "model": "model", "prompt": prompt, "sampling": GREEDY} | fields))
        return driver.run([submit]).cached[pid]

    assert run(1) == 0
    assert run(2) == 48
    assert run(3, n=3) == 48
    assert run(4, salt=b"other") == 0
    assert run(5, sampling=Sampling(seed=0, max_tokens=1, prompt_logprobs=0)) == 0
    assert run(7, prompt=prompt[:48]) == 32, "the last token is computed in any case"
    assert run(6, prompt=[*prompt, *driver.heard.tokens[(1, 0)], 7, 8]) == 48
    counters = driver.heard.counters
    assert counters is not None
    assert counters.cached_tokens == 3 * 48 + 32
    assert counters.blocks_free == counters.blocks_total
    assert len({tuple(driver.heard.tokens[(pid, 0)]) for pid in (1, 2, 3, 4)}) == 1
    assert driver.heard.prompts[5].entries[0] is None
    assert len(driver.heard.prompts[5].entries) == 50


def test_unloading_forgets() -> None:
    driver = make(ROOMY)
    submit = Submit(pid=1, model="model", prompt=list(range(50)), sampling=GREEDY)
    driver.run([submit])
    driver.engine.unload("model")
    driver.engine.load(Load(model="model", files={}))
    assert driver.run([msgspec.structs.replace(submit, pid=2)]).cached[2] == 0
    driver.engine.check()
