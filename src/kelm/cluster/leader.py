"""Stage 0 of a sharded model: brings the other stages up, loads its own layers, and hands the engine an executor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kelm.cluster.crew import Crew
from kelm.cluster.layers import Split
from kelm.cluster.messages import Assignment, StageReport
from kelm.cluster.pipeline import ShardedDecoder
from kelm.cluster.stage import attach, shared_groups
from kelm.errors import NodeFailed
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import Outline, load_part
from kelm.store import Manifest, Store
from kelm.wire.messages import Load, Loaded
from kelm.worker.arena import lay_out_groups
from kelm.worker.opened import Opened, Progress


@dataclass(frozen=True, slots=True)
class Stage:
    """One process of the model. ``weight_bytes``: what it holds of it."""

    node: str
    pid: int
    layers: range
    weight_bytes: int


class Leader:
    """``open`` is an opener for the engine; ``close`` ends what it started."""

    def __init__(self, store: Store, manifest: Manifest, model: Outline, found: Split) -> None:
        self.stages: list[Stage] = []
        self._store, self._manifest, self._model, self._found = store, manifest, model, found
        self._crew: Crew | None = None
        self._decoder: ShardedDecoder | None = None

    def open(self, command: Load, progress: Progress) -> Opened:
        """Raises NodeFailed, and what this or another stage could not load its part for."""
        found, widths = self._found, self._widths()
        crew = self._crew = Crew(len(found.parts), self._store.home.root)
        crew.assign(self._assignment(command, widths))
        own = load_part(self._store.paths(self._manifest), command.dtype, found.parts[0], progress)
        reports = crew.reports()
        self.stages = self._rows(own, reports)
        groups = shared_groups(self._model.spec, widths)
        layouts = lay_out_groups(groups, own.dtype.itemsize, found.settings[0].slab_bytes)
        self._decoder = ShardedDecoder(crew.system, own, groups, layouts)

        def give(views: list[NDArray[np.generic]]) -> None:
            attach(own, views)

        return Opened(
            _loaded(command.model, own),
            decoder=self._decoder,
            attach=give,
            kv_item_bytes=own.dtype.itemsize,
            copied=self._decoder.copied,
        )

    def close(self) -> None:
        if self._decoder is not None:
            with suppress(NodeFailed):  # whoever is gone needs no word
                self._decoder.end()
        if self._crew is not None:
            self._crew.dismiss()

    def _widths(self) -> tuple[int, ...]:
        """Of each KV group the most layers that one stage has."""
        of_parts = [self._model.spec.kv_groups(part) for part in self._found.parts]
        return tuple(max(len(group.layers) for group in groups) for groups in zip(*of_parts, strict=True))

    def _assignment(self, command: Load, widths: tuple[int, ...]) -> Assignment:
        settings = self._found.settings
        return Assignment(
            model=self._manifest.name,
            digest=self._manifest.digest,
            dtype=command.dtype,
            ends=tuple(part.layers.stop for part in self._found.parts),
            widths=widths,
            kv_bytes=settings[0].slabs * settings[0].slab_bytes,
            slab_bytes=settings[0].slab_bytes,
            threads=torch.get_num_threads(),  # another number would be another arithmetic
            memory_bytes=tuple(one.memory_bytes for one in settings),
            step_tokens=settings[0].step_tokens,
            max_num_seqs=settings[0].max_num_seqs,
        )

    def _rows(self, own: LoadedDecoder, reports: list[StageReport]) -> list[Stage]:
        held = [(os.getpid(), own.info.weight_bytes), *((one.pid, one.weight_bytes) for one in reports)]
        return [
            Stage(node.name, pid, part.layers, weight_bytes)
            for node, part, (pid, weight_bytes) in zip(self._found.nodes, self._found.parts, held, strict=True)
        ]


def without_weights(files: Mapping[str, str]) -> dict[str, str]:
    """What an engine may grant as it stands: the weights are granted by the plan, part by part."""
    return {name: path for name, path in files.items() if not name.endswith((".safetensors", ".index.json"))}


def _loaded(key: str, own: LoadedDecoder) -> Loaded:
    info = own.info
    return Loaded(
        model=key,
        executor=ShardedDecoder.name,
        kind=info.kind,
        architecture=info.architecture,
        dtype=info.dtype,
        parameters=info.parameters,
        weight_bytes=info.weight_bytes,
        max_context_tokens=info.max_context_tokens,
        vocab=info.vocab,
        hidden=info.hidden,
        tasks=list(info.tasks),
    )
