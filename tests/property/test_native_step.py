"""What the step refuses: nothing that a caller passes makes it read or write where it must not."""

from __future__ import annotations

import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from native_kit import attach, files_of_family, open_native
from parity_kit import step

from kelm.models.batch import Batch, Span
from kelm.models.graph.plan import PASSES
from kelm.models.native.decoder import NativeDecoder
from kelm.ops import native
from kelm.testing.checkpoints import Shape, write_llama

pytestmark = pytest.mark.skipif(not native.available(), reason="the install has no compiled kernels")


@pytest.fixture(scope="module")
def llama() -> NativeDecoder:
    decoder = open_native(files_of_family("llama", 1))
    attach(decoder, 200)
    decoder.forward(batch(tokens=[*range(15)], length=15, context=0, rows=[]))
    return decoder


def batch(**changes: Any) -> Batch:
    """Two rows of one sequence at position 15, in blocks 3 and 1."""
    given = {"tokens": [5, 6], "start": 0, "length": 2, "context": 15, "table": [3, 1], "rows": [1], **changes}
    table = np.array(given["table"], np.int32)
    span = Span(0, given["start"], given["length"], given["context"], (table,))
    return Batch(np.array(given["tokens"], np.int64), (span,), np.array(given["rows"], np.int64))


WRONG: dict[str, dict[str, Any]] = {
    "a token that is not in the vocabulary": {"tokens": [5, 100000]},
    "a token below none": {"tokens": [-1, 5]},
    "logits of a row that is not there": {"rows": [2]},
    "a block table is too short": {"table": [3]},
    "a block table names no block": {"table": [3, 100000]},
    "a block that is gone": {"table": [-1, 1]},
    "spans must cover all rows": {"length": 1},
    "spans must follow one another": {"start": 1, "length": 1},
    "more rows of logits than rows": {"rows": [0, 1, 1]},
    "a context below zero": {"context": -1},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_batch_is_a_value_error(llama: NativeDecoder, what: str) -> None:
    assert llama.forward(batch()).shape == (1, llama.spec.vocab)
    with pytest.raises(ValueError):
        llama.forward(batch(**WRONG[what]))
    assert np.isfinite(llama.forward(batch())).all(), "it goes on"


def test_a_position_past_the_table_of_positions() -> None:
    decoder = open_native(files_of_family("gpt2", 1))
    attach(decoder, 1000)
    with pytest.raises(ValueError, match="a position that the table has no row for"):
        decoder.forward(batch(context=decoder.spec.learned_positions - 1, table=[*range(40)]))


def test_no_rows_and_no_logits(llama: NativeDecoder) -> None:
    empty = Batch(np.zeros(0, np.int64), (), np.zeros(0, np.int64))
    assert llama.forward(empty).shape == (0, llama.spec.vocab)
    assert llama.forward(batch(rows=[])).shape == (0, llama.spec.vocab)


def test_the_same_in_plain_code() -> None:
    """A row's bits are the same on every instruction set that multiplies bfloat16 in the same way."""
    files = files_of_family("gemma2", 1)
    ids = np.random.default_rng(0).integers(0, 97, 100).tolist()
    made = {}
    for isa in native.machine_isas():
        if "amx" in isa:
            continue
        decoder = open_native(files)
        decoder._step._isa = native.ISAS.index(isa)
        made[isa] = step(decoder, attach(decoder, 200), {0: (ids, 0)})
    assert len(made) > 1
    for isa, logits in made.items():
        assert np.array_equal(logits, made["portable"]), isa


@pytest.mark.parametrize("inner", [16, 40, 72, 88, 152, 200, 344])
def test_gates_are_cut_between_pairs(inner: int, tmp_path: Path) -> None:
    """However a product's tiles are cut into pieces, and whatever an instruction set takes at once, a gate and its up
    stay together."""
    folder = write_llama(tmp_path, shape=Shape(intermediate_size=inner))
    files = {path.name: str(path) for path in folder.iterdir()}
    plain = open_native(files, passes=tuple(name for name in PASSES if name != "fuse_gates"))
    ids = [*range(5, 70)]
    for rows in (1, 65):
        wanted = step(plain, attach(plain, 100), {0: (ids[:rows], 0)})
        for threads in (1, 2):
            decoder = open_native(files, threads=threads)
            for isa in native.machine_isas():
                if "amx" not in isa:
                    decoder._step._isa = native.ISAS.index(isa)
                    got = step(decoder, attach(decoder, 100), {0: (ids[:rows], 0)})
                    assert np.array_equal(got, wanted), (rows, threads, isa)


def test_denormals_count_as_zero_inside_and_not_outside(llama: NativeDecoder) -> None:
    small = np.full(16, 1e-40, np.float32)
    before = small * np.float32(0.5)
    assert (before != 0).all()
    llama.forward(batch())
    assert np.array_equal(small * np.float32(0.5), before)


def test_other_threads_run_meanwhile() -> None:
    """The GIL is released: Python code in another thread gets on in the middle of a step."""
    decoder = open_native(files_of_family("gemma2", 1))
    arena = attach(decoder, 8 * 512)
    spans = tuple(Span(seq, 400 * seq, 400, 0, arena.tables(seq, 400, 0)) for seq in range(8))
    work = Batch(np.full(3200, 7, np.int64), spans, np.zeros(0, np.int64))
    moments: list[float] = []
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            moments.append(time.perf_counter())

    def forward() -> float:
        began = time.perf_counter()
        decoder.forward(work)
        return time.perf_counter() - began

    alone_s = min(forward() for _ in range(3))
    other = threading.Thread(target=count)
    other.start()
    pauses = []
    try:
        for _ in range(10):
            moments.clear()
            forward()
            pauses.append(max(after - before for before, after in pairwise(list(moments))))
    finally:
        done.set()
        other.join()
    assert np.median(pauses) < alone_s / 2, "the other thread stood still for as long as a step takes"
