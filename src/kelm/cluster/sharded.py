"""``ShardedLLM``: one model over several processes, for when it does not fit into one.

llm = ShardedLLM("org/model", nodes=2)
llm.generate("Once upon a time", SamplingParams(max_tokens=32))[0].text     the tokens that LLM would give
print(llm.plan.table(), llm.stages)                                         who computes and who holds what
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from kelm.cluster.layers import equal_nodes, sharing, split
from kelm.cluster.leader import Leader, Stage, without_weights
from kelm.cluster.placement import Node, Plan
from kelm.config import load_settings
from kelm.errors import UnsupportedModel
from kelm.library import LLM
from kelm.models.loader import outline
from kelm.store import Store
from kelm.wire.messages import Load, Loaded
from kelm.worker.engine import Engine
from kelm.worker.settings import EngineSettings


class ShardedLLM(LLM):
    """As LLM, over ``nodes``: so many equal ones, or nodes with powers and memories (placement.Node), which get layers
    accordingly; one that would only slow the others down gets none. They are processes on this machine.

    ``plan`` says who computes which layers, ``stages`` what each process holds. Raises as LLM, and InvalidRequest (more
    nodes than layers), OutOfMemory (the layers do not fit on the nodes), NodeFailed.
    """

    def __init__(self, model: str, nodes: int | Sequence[Node] = 2, **settings: Any) -> None:
        chosen = load_settings(settings)
        several = equal_nodes(nodes, chosen.memory) if isinstance(nodes, int) else list(nodes)
        self._nodes = sharing(several, chosen.memory)
        self._store = Store(chosen.home)
        self._leader: Leader | None = None
        self.plan: Plan
        self.stages: list[Stage]
        try:
            super().__init__(model, **settings)
        except BaseException:
            self._dismiss()
            raise

    def close(self) -> None:
        """Give the memory back, here and in the other processes."""
        super().close()
        self._dismiss()

    def _dismiss(self) -> None:
        if self._leader is not None:
            self._leader.close()
            self._leader = None

    def _bring_up(self, loads: Sequence[Load], settings: EngineSettings) -> tuple[Engine, Loaded]:
        load = loads[-1]
        if len(loads) > 1:
            raise UnsupportedModel(f"{load.model} is a variant; models without one can be split over nodes so far")
        model = outline(load.files, load.dtype)
        found = split(model, self._nodes, settings)
        self.plan = found.plan
        if len(found.parts) == 1:
            engine, loaded = super()._bring_up(loads, settings)
            self.stages = [Stage(found.nodes[0].name, os.getpid(), found.parts[0].layers, loaded.weight_bytes)]
            return engine, loaded
        self._leader = Leader(self._store, self._store.resolve(load.model), model, found)
        engine = Engine(found.settings[0], self._leader.open, self._runner.report)
        loaded = engine.load(Load(model=load.model, files=without_weights(load.files), dtype=load.dtype))
        self.stages = self._leader.stages
        return engine, loaded
