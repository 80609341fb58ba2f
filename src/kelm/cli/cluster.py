"""`kelm cluster`: plan and run compute in this process, which imports torch; serve starts others, and does not."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kelm.cli.tables import print_json, size
from kelm.config import load_settings
from kelm.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from kelm.cluster.placement import Node, Plan
    from kelm.cluster.sharded import ShardedLLM

NEEDED = ("torch", "scipy")


@dataclass(frozen=True, slots=True)
class Nodes:
    """What the command line said: how many equal ones, or each described."""

    count: int | None
    described: list[str]


@dataclass(frozen=True, slots=True)
class Answer:
    max_tokens: int
    temperature: float | None
    seed: int | None


def plan(model: str, nodes: Nodes, as_json: bool) -> None:
    """Raises ConfigError without what kelm[cluster] brings, InvalidRequest, OutOfMemory, ModelNotFound."""
    _check_installed()
    from kelm.cluster.layers import plan_for

    chosen = load_settings()
    found = plan_for(model, _read(nodes, chosen.memory), chosen)
    if as_json:
        print_json(_as_json(found))
    else:
        print(found.table())


def run(model: str, prompt: str | None, nodes: Nodes, answer: Answer) -> None:
    """Plan and stages go to stderr, the answer to stdout."""
    if prompt is None:
        prompt = sys.stdin.read().strip() if not sys.stdin.isatty() else ""
    if not prompt:
        raise InvalidRequest("there is nothing to answer: give a PROMPT, or text on standard input", param="prompt")
    _check_installed()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, here and in the other stages
    from kelm import SamplingParams
    from kelm.cli import shelf
    from kelm.cluster.sharded import ShardedLLM

    shelf.ensure(model)
    params = SamplingParams(max_tokens=answer.max_tokens, temperature=answer.temperature, seed=answer.seed)
    with closing(ShardedLLM(model, _read(nodes, load_settings().memory))) as llm:
        _show(llm)
        if llm.tokenizer.chat_template is None:
            print(llm.generate(prompt, params)[0].text)
        else:
            print(llm.chat([{"role": "user", "content": prompt}], params)[0].text)


def serve(flags: Mapping[str, Any], model: str, replicas: int) -> None:
    """Run the door and the replicas behind it in the foreground, until somebody ends it."""
    settings = load_settings(flags)
    _check_installed(("torch", "ray"))
    from kelm.cli import shelf
    from kelm.replicas import run as cluster

    shelf.ensure(model)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    cluster.run(settings, model, replicas)


def _check_installed(needed: Sequence[str] = NEEDED) -> None:
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"this needs {', '.join(missing)}, not installed here: pip install 'kelm[cluster]'")


def _read(nodes: Nodes, memory_bytes: int) -> list[Node]:
    from kelm.cluster.layers import equal_nodes, read_node

    if nodes.described and nodes.count is not None:
        raise InvalidRequest("give --nodes, or --node for each one, not both", param="nodes")
    if nodes.described:
        return [read_node(text) for text in nodes.described]
    return equal_nodes(2 if nodes.count is None else nodes.count, memory_bytes)


def _show(llm: ShardedLLM) -> None:
    print(llm.plan.table(), file=sys.stderr)
    for stage in llm.stages:
        layers = f"layers {stage.layers.start}-{stage.layers.stop - 1}"
        print(f"{stage.node}: pid {stage.pid}, {layers}, {size(stage.weight_bytes)} of weights", file=sys.stderr)


def _as_json(found: Plan) -> object:
    nodes = [
        {
            "node": portion.node.name,
            "share": portion.share,
            "layers": list(portion.layers),
            "seconds": portion.seconds,
            "memory_bytes": portion.memory_bytes,
        }
        for portion in found.portions
    ]
    return {"nodes": nodes, "seconds": found.seconds, "equal_split_seconds": found.uniform_s}
