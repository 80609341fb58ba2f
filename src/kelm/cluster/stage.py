"""One stage of a sharded model: a run of layers, their KV, and a loop.  python -m kelm.cluster.stage RANK NODES FILE

wait for a step        (the shared store: as long as it takes)
work                   from stage 0: spans, tables, block copies
residual stream        from the stage before, [T padded, hidden] float32
residual stream        to the stage behind; the last one: logits to stage 0
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelm.cluster.messages import (
    ASSIGNMENT,
    END,
    LOGITS_TAG,
    STEP,
    STREAM_TAG,
    WORK_TAG,
    Assignment,
    StageReport,
    StageWork,
    Trouble,
)
from kelm.cluster.system import DistributedSystem
from kelm.config import load_settings
from kelm.errors import InvalidRequest, KelmError, NodeFailed, WorkerFailed
from kelm.memory.layout import BlockLayout
from kelm.memory.ledger import Ledger
from kelm.models.batch import KVGroup
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load_part, outline
from kelm.models.spec import DecoderSpec
from kelm.store import Store
from kelm.worker.arena import Arena, lay_out_groups

log = logging.getLogger(__name__)
T = TypeVar("T")


def shared_groups(spec: DecoderSpec, widths: tuple[int, ...]) -> tuple[KVGroup, ...]:
    """The KV groups as every stage's arena is cut for them: as wide as the widest stage needs."""
    groups = zip(spec.kv_groups(), widths, strict=True)
    return tuple(KVGroup(tuple(range(width)), group.kv_heads, group.head_dim, group.window) for group, width in groups)


def attach(decoder: LoadedDecoder, views: list[NDArray[np.generic]]) -> None:
    """Give a stage the part of each block that is its layers'."""
    tensors = [torch.from_numpy(view).view(decoder.dtype) for view in views]
    own = zip(tensors, decoder.groups, strict=True)
    decoder.attach([tensor[:, :, : len(group.layers)] for tensor, group in own])


class Stage:
    """A stage that is not the first: loads its layers, then computes whatever step is announced."""

    def __init__(self, system: DistributedSystem, home: Path) -> None:
        self._system = system
        self._home = home
        self._arena: Arena
        self._layouts: tuple[BlockLayout, ...]
        self._decoder: LoadedDecoder

    def run(self) -> None:
        """Until the first stage says that it is over. Raises NodeFailed when that one, or a neighbour, is gone."""
        rank, store = self._system.rank, self._system.store
        assignment = store.get(ASSIGNMENT, Assignment) or store.watch(ASSIGNMENT, Assignment, after=0).value
        try:
            weight_bytes = self._load(assignment)
        except KelmError as error:
            store.put(f"stage/{rank}", StageReport(rank, os.getpid(), 0, error.code, error.message))
            raise
        store.put(f"stage/{rank}", StageReport(rank, os.getpid(), weight_bytes))
        for change in store.changes(STEP, int, after=0):
            if change.value == END:
                return
            self._step()

    def _load(self, given: Assignment) -> int:
        store, part, settings = Store(self._home), given.part(self._system.rank), given.settings(self._system.rank)
        manifest = store.resolve(given.model)
        if manifest.digest != given.digest:
            raise InvalidRequest(f"{given.model} is another model here than on the first node: pull it again")
        files = store.paths(manifest)
        torch.set_num_threads(given.threads)
        model, ledger = outline(files, given.dtype), Ledger(settings.memory_bytes)
        ledger.grant("kv", settings.slabs * settings.slab_bytes)
        ledger.grant("activations", settings.activation_bytes(model.spec.hidden, model.spec.vocab))
        ledger.grant("weights", model.weight_bytes(part))
        self._decoder = load_part(files, given.dtype, part)
        groups, item = shared_groups(model.spec, given.widths), self._decoder.dtype.itemsize
        self._arena = Arena(settings.slabs, settings.slab_bytes)
        self._layouts = lay_out_groups(groups, item, settings.slab_bytes)
        views = zip(self._layouts, groups, strict=True)
        attach(self._decoder, [self._arena.view(layout, group, item) for layout, group in views])
        return self._decoder.info.weight_bytes

    def _step(self) -> None:
        talk, rank = self._system.communication, self._system.rank
        work = _decode(talk.receive(0, WORK_TAG), StageWork)
        x = talk.receive(rank - 1, STREAM_TAG)
        last = rank == self._system.nodes - 1
        to, tag = (0, LOGITS_TAG) if last else (rank + 1, STREAM_TAG)
        talk.send(x if isinstance(x, bytes) else self._compute(work, x), to, tag)

    def _compute(self, work: StageWork, x: object) -> Tensor | NDArray[np.float32] | bytes:
        """The stream behind this stage, or the logits; a Trouble where that fails, so that nobody waits in vain."""
        try:
            assert isinstance(x, Tensor)
            for group, source, target in work.copies:
                self._arena.copy(self._layouts[group], source, target)
            batch = work.batch()
            made = self._decoder.stream(batch, x)
            return self._decoder.logits(made, batch.logit_rows) if self._decoder.part.last else made
        except Exception as error:
            return trouble(self._system.rank, error)


def trouble(rank: int, error: Exception) -> bytes:
    """``error`` for the wire; what is not ours is logged, and its insides stay here."""
    if not isinstance(error, KelmError):
        log.error("stage_failed rank=%d", rank, exc_info=error)
        error = WorkerFailed(f"stage {rank} failed to compute this step ({type(error).__name__})")
    return msgspec.msgpack.encode(Trouble(rank, error.code, error.message))


def _decode(body: object, kind: type[T]) -> T:
    if not isinstance(body, bytes):
        raise WorkerFailed(f"a stage sent {type(body).__name__} where {kind.__name__} was due")
    return msgspec.msgpack.decode(body, type=kind)


def main() -> int:
    rank, nodes, at = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s stage-{rank} %(levelname)s %(message)s")
    try:
        with DistributedSystem(int(rank), int(nodes), Path(at)) as system:
            Stage(system, load_settings().home).run()
    except NodeFailed as error:
        log.info("stage_left reason=%r", error.message)
        return 1
    except KelmError as error:
        log.error("stage_refused reason=%r", error.message)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
