"""Three processes share values, compute together and write to one another; then one model runs split over two.

    pip install 'kelm[cluster]'
    python examples/cluster.py [MODEL]

On several machines each process would be started by hand, with the address of node 0 in place of the file.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np

from kelm import LLM, SamplingParams
from kelm.cluster.sharded import ShardedLLM
from kelm.cluster.system import DistributedSystem

NODES = 3


def node(rank: int, meeting: Path) -> None:
    with DistributedSystem(rank, NODES, meeting) as system:
        compute, talk = system.compute, system.communication
        if rank == 0:
            system.store.put("plan", {"rate": 0.5})
        else:
            while system.store.get("plan") is None:
                system.store.watch("plan", after=0)
        rate = compute.broadcast(np.array([system.store.get("plan")["rate"]]) if rank == 0 else None)
        part = compute.scatter(list(np.arange(6.0).reshape(NODES, 2)) if rank == 0 else None) * rate
        total, parts = compute.all_reduce(part), compute.gather(part)
        greatest = compute.reduce(part, "max")
        if rank == 1:
            talk.send(b"node 1 says hello", to=2)
        if rank == 2:
            print(bytes(talk.receive(1)).decode(), flush=True)
        compute.barrier()
        if parts is not None:
            print("gathered", [p.tolist() for p in parts], "greatest", greatest, "added up", total, flush=True)


def together() -> None:
    start = multiprocessing.get_context("spawn").Process
    with tempfile.TemporaryDirectory() as folder:
        running = [start(target=node, args=(rank, Path(folder) / "meeting")) for rank in range(NODES)]
        for process in running:
            process.start()
        for process in running:
            process.join()
        if any(process.exitcode for process in running):
            sys.exit("a node failed")


def main(model: str = "nano") -> None:
    together()
    params, prompt = SamplingParams(max_tokens=24, temperature=0.8, seed=7), "How do I stop a model?"
    with LLM(model) as whole:
        expected = whole.generate(prompt, params)[0]
    with ShardedLLM(model, nodes=2) as split:
        got = split.generate(prompt, params)[0]
        for stage in split.stages:
            print(f"{stage.node} holds layers {stage.layers.start} to {stage.layers.stop - 1}")
    print("the same tokens" if got.token_ids == expected.token_ids else "OTHER TOKENS")


if __name__ == "__main__":
    main(*sys.argv[1:])
