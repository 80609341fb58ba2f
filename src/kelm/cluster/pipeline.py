"""The first stage of a sharded model, as the engine sees it: an executor like any other, whose other layers are
elsewhere. Stages work one after another on a step; stage 0 samples."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kelm.cluster.messages import END, LOGITS_TAG, STEP, STREAM_TAG, WORK_TAG, Trouble, work_of
from kelm.cluster.stage import trouble
from kelm.cluster.system import DistributedSystem
from kelm.errors import by_code
from kelm.memory.layout import BlockLayout
from kelm.models.batch import Batch, KVGroup
from kelm.models.decoder import LoadedDecoder


class ShardedDecoder:
    """Implements batch.Executor. ``groups``: as wide as the widest stage needs (stage.shared_groups)."""

    name = "sharded"

    def __init__(
        self,
        system: DistributedSystem,
        decoder: LoadedDecoder,
        groups: tuple[KVGroup, ...],
        layouts: tuple[BlockLayout, ...],
    ) -> None:
        self.groups = groups
        self._system, self._decoder, self._layouts = system, decoder, layouts
        self._copies: list[tuple[int, int, int]] = []
        self._steps = 0

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """[R, vocab] logits for ``batch.logit_rows``. Raises NodeFailed, and what a stage failed with."""
        if not len(batch.tokens):
            return np.zeros((0, self._decoder.spec.vocab), dtype=np.float32)
        self._announce(batch)
        talk, failed = self._system.communication, None
        try:
            x: Tensor | bytes = self._decoder.stream(batch)
        except Exception as error:  # the others wait for something
            x, failed = trouble(0, error), error
        talk.send(x, 1, STREAM_TAG)
        answer = talk.receive(self._system.nodes - 1, LOGITS_TAG)
        if failed is not None:
            raise failed
        if isinstance(answer, bytes):
            told = msgspec.msgpack.decode(answer, type=Trouble)
            raise by_code(told.code)(told.message)
        assert isinstance(answer, np.ndarray)
        return answer.astype(np.float32, copy=False)

    def copied(self, layout: BlockLayout, source: int, target: int) -> None:
        """A block was copied here; the others do so before their next step."""
        for group, own in enumerate(self._layouts):
            if own == layout:
                self._copies.append((group, source, target))

    def fork(self, parent: int, child: int) -> None:
        """Nothing to do: caches are in the arenas."""

    def forget(self, seq: int) -> None:
        """Nothing to do: caches are in the arenas."""

    def end(self) -> None:
        """Let the other stages go."""
        self._system.store.put(STEP, END)

    def _announce(self, batch: Batch) -> None:
        work, self._copies = msgspec.msgpack.encode(work_of(batch, self._copies)), []
        self._steps += 1
        self._system.store.put(STEP, self._steps)
        for rank in range(1, self._system.nodes):
            self._system.communication.send(work, rank, WORK_TAG)
