"""A decoder's layers as work for placement.py, and nodes as people write them.

    fast,power=8,bandwidth=1,memory=2GiB      powers in GFLOP/s and GB/s, or in any unit that all nodes share

Work is that of one token: what it computes in GFLOP, what is handed on in GB; memory in bytes. The first layer bears
the embedding, the last one the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kelm import limits
from kelm.cluster.placement import Node, Plan, Work, split_layers
from kelm.config import Settings, parse_memory
from kelm.errors import InvalidRequest, OutOfMemory
from kelm.models.loader import Outline, outline
from kelm.models.part import Part
from kelm.store import Store
from kelm.suggest import did_you_mean
from kelm.worker.settings import EngineSettings

_GIGA = 1e9
_FIELDS = {"power": "power", "bandwidth": "bandwidth", "memory": "memory_bytes"}


def read_node(text: str) -> Node:
    """Raises InvalidRequest."""
    name, *pairs = (part.strip() for part in text.split(","))
    if not name or "=" in name:
        raise InvalidRequest(f"a node is NAME,power=8,bandwidth=1,memory=2GiB, got {limits.shown(text)}", param="node")
    given: dict[str, float] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in _FIELDS or not equals:
            near = did_you_mean(key, list(_FIELDS))
            raise InvalidRequest(f"node {name}: {pair!r} is none of {', '.join(_FIELDS)}{near}", param="node")
        try:
            given[_FIELDS[key]] = parse_memory(value) if key == "memory" else float(value)
        except (ValueError, InvalidRequest) as error:
            raise InvalidRequest(f"node {name}: {key}: {error}", param="node") from None
    return Node(name=name, **{"power": 1.0, **given})


def equal_nodes(count: int, memory_bytes: int) -> list[Node]:
    """So many nodes alike, which share ``memory_bytes``."""
    limits.CLUSTER_NODES.check(count)
    return [Node(name=f"node-{rank}", power=1.0, memory_bytes=memory_bytes // count) for rank in range(count)]


def sharing(nodes: Sequence[Node], budget_bytes: int) -> list[Node]:
    """Nodes that are processes of one machine with this budget: who names no memory gets a part of what is left.

    Raises OutOfMemory when they name more than there is.
    """
    named = sum(node.memory_bytes for node in nodes if math.isfinite(node.memory_bytes))
    silent = sum(not math.isfinite(node.memory_bytes) for node in nodes)
    if named > budget_bytes:
        raise OutOfMemory(
            f"the nodes want {named:.0f} bytes together, this machine's budget is {budget_bytes}: give them less, or "
            "raise the budget (KELM_MEMORY)"
        )
    share = (budget_bytes - named) // max(1, silent)
    return [node if math.isfinite(node.memory_bytes) else replace(node, memory_bytes=share) for node in nodes]


def layer_work(model: Outline) -> list[Work]:
    """The work of each layer, in order. A tied embedding counts at both ends, as it will lie there."""
    spec, depth = model.spec, len(model.spec.layers)
    attention = (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim
    per_layer = spec.hidden * (attention + (2 + spec.gated) * spec.intermediate)
    work = []
    for number in range(depth):
        last = number == depth - 1
        work.append(
            Work(
                compute=2 * (per_layer + (spec.vocab * spec.hidden if last else 0)) / _GIGA,
                data=4 * (spec.vocab if last else spec.hidden) / _GIGA,
                memory_bytes=float(model.weight_bytes(Part(range(number, number + 1), depth))),
            )
        )
    return work


@dataclass(frozen=True, slots=True)
class Split:
    """A plan, and what the nodes that have layers in it use: ``parts``, ``settings`` and ``nodes`` are theirs."""

    plan: Plan
    nodes: tuple[Node, ...]
    parts: tuple[Part, ...]
    settings: tuple[EngineSettings, ...]


def plan_for(model: str, nodes: Sequence[Node], chosen: Settings) -> Plan:
    """The split of a model of the store, nothing of which is loaded. Raises as ``split``, and ModelNotFound."""
    store = Store(chosen.home)
    settings = EngineSettings(
        memory_bytes=chosen.memory, max_num_seqs=chosen.max_num_seqs, step_tokens=chosen.step_tokens
    )
    return split(outline(store.paths(store.resolve(model)), chosen.dtype), nodes, settings).plan


def split(model: Outline, nodes: Sequence[Node], settings: EngineSettings) -> Split:
    """Which node computes which layers. Of its memory a node keeps a quarter for KV, and what a step needs.

    All arenas have the same number of slabs, that of the smallest node: one block table serves them all. Raises
    InvalidRequest (more nodes than layers, a node without power), OutOfMemory.
    """
    depth = len(model.spec.layers)
    _check(nodes, depth)
    aside_bytes = settings.activation_bytes(model.spec.hidden, model.spec.vocab)
    room = [
        replace(node, memory_bytes=max(0.0, node.memory_bytes - node.memory_bytes // 4 - aside_bytes))
        if math.isfinite(node.memory_bytes)
        else node
        for node in nodes
    ]
    plan = split_layers(layer_work(model), room)
    busy = [(node, portion.layers) for node, portion in zip(nodes, plan.portions, strict=True) if portion.layers]
    least_bytes = min(settings.memory_bytes, *(node.memory_bytes for node, _ in busy))
    slabs = max(1, int(least_bytes) // 4 // settings.slab_bytes)
    return Split(
        plan,
        tuple(node for node, _ in busy),
        tuple(Part(layers, depth) for _, layers in busy),
        tuple(
            replace(
                settings,
                memory_bytes=int(min(settings.memory_bytes, node.memory_bytes)),
                kv_bytes=slabs * settings.slab_bytes,
            )
            for node, _ in busy
        ),
    )


def _check(nodes: Sequence[Node], depth: int) -> None:
    if len(nodes) > depth:
        raise InvalidRequest(
            f"{depth} layers can't be split over {len(nodes)} nodes: give at most {depth}", param="nodes"
        )
    names = [node.name for node in nodes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"two nodes are called {twice}: give each a name of its own", param="nodes")
