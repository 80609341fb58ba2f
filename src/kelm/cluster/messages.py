"""What the stages of a sharded model tell one another. msgpack, like every wire of the house."""

from __future__ import annotations

import msgspec
import numpy as np

from kelm.models.batch import Batch, Span
from kelm.models.part import Part
from kelm.worker.settings import EngineSettings

STEP, ASSIGNMENT = "step", "assignment"
"""Keys of the shared store."""
END = -1
"""The step after the last one."""
WORK_TAG, STREAM_TAG, LOGITS_TAG = 1, 2, 3


class Assignment(msgspec.Struct, frozen=True):
    """What a stage needs to know before it loads; the same for all. ``ends[r]``: the layer behind stage r's last."""

    model: str
    digest: str
    dtype: str
    ends: tuple[int, ...]
    widths: tuple[int, ...]
    """Layers of each KV group in a block: those of the stage that has most of them, so that one arena fits all."""
    kv_bytes: int
    slab_bytes: int
    threads: int
    memory_bytes: tuple[int, ...]
    step_tokens: int
    max_num_seqs: int

    def part(self, rank: int) -> Part:
        return Part(range(self.ends[rank - 1] if rank else 0, self.ends[rank]), self.ends[-1])

    def settings(self, rank: int) -> EngineSettings:
        return EngineSettings(
            memory_bytes=self.memory_bytes[rank],
            kv_bytes=self.kv_bytes,
            slab_bytes=self.slab_bytes,
            step_tokens=self.step_tokens,
            max_num_seqs=self.max_num_seqs,
            threads=self.threads,
        )


class StageReport(msgspec.Struct, frozen=True):
    """A stage is ready, or why it is not."""

    rank: int
    pid: int
    weight_bytes: int = 0
    code: str = ""
    message: str = ""


class Trouble(msgspec.Struct, frozen=True):
    """Comes in the place of an array where a stage could not compute it."""

    rank: int
    code: str
    message: str


class Rows(msgspec.Struct, array_like=True, frozen=True):
    """A Span of batch.py; tables are little-endian int32."""

    seq: int
    start: int
    length: int
    context: int
    tables: tuple[bytes, ...]


class StageWork(msgspec.Struct, frozen=True):
    """A step, without the tokens: only the first stage embeds them."""

    rows: int
    spans: list[Rows]
    logit_rows: list[int]
    copies: list[tuple[int, int, int]]
    """(group, source block, target block), in order, before anything is computed."""

    def batch(self) -> Batch:
        spans = tuple(
            Span(s.seq, s.start, s.length, s.context, tuple(np.frombuffer(table, "<i4") for table in s.tables))
            for s in self.spans
        )
        return Batch(np.zeros(self.rows, dtype=np.int64), spans, np.array(self.logit_rows, dtype=np.int64))


def work_of(batch: Batch, copies: list[tuple[int, int, int]]) -> StageWork:
    spans = [
        Rows(s.seq, s.start, s.length, s.context, tuple(table.astype("<i4").tobytes() for table in s.tables))
        for s in batch.spans
    ]
    return StageWork(len(batch.tokens), spans, batch.logit_rows.tolist(), copies)
