"""Kelm's executor alone: batches through Executor.forward, greedy by numpy. Usage: executor.py MODEL DTYPE THREADS

The home is KELM_HOME. The library opens the model, so that the executor and its arena are those that serve."""

import os
import sys

from line import open_line, serve

line = open_line()

model, dtype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ["OMP_NUM_THREADS"] = str(threads)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402

import kelm  # noqa: E402
from kelm.clock import SYSTEM  # noqa: E402
from kelm.memory.tables import Tables  # noqa: E402
from kelm.models.batch import Batch, Span  # noqa: E402

KV_ITEM = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
CHUNK = 512
"""Tokens of prompts in one batch, as a step of the engine has them."""

llm = kelm.LLM(model, dtype=dtype, threads=threads)
residency = llm._engine._residency  # beneath the engine there is no door
resident = residency.get(llm.name)
executor = resident.opened.decoder


class Stream:
    """A sequence: its blocks, and what it gives to the next batch."""

    def __init__(self, number, prompt):
        self.number, self.known, self.computed = number, list(prompt), 0
        self.prompt = len(prompt)
        self.tables = Tables(residency.pool, resident.groups)

    def take(self, most):
        return self.known[self.computed : self.computed + most]

    def span(self, start, length):
        end = self.computed + length
        assert self.tables.grow(self.computed, end), "the KV arena is full"
        return Span(self.number, start, length, self.computed, self.tables.views(end), self.prompt)


def forward(members):
    """``members``: (stream, tokens). The streams that have computed all they know get their next token."""
    tokens, spans, rows, wanting = [], [], [], []
    for stream, part in members:
        spans.append(stream.span(len(tokens), len(part)))
        tokens += part
        stream.computed += len(part)
        if stream.computed == len(stream.known):
            rows.append(len(tokens) - 1)
            wanting.append(stream)
    batch = Batch(np.array(tokens, np.int64), tuple(spans), np.array(rows, np.int64))
    logits = executor.forward(batch)
    for stream, row in zip(wanting, logits, strict=True):
        stream.known.append(int(row.argmax()))


def prefill(streams):
    pending = list(streams)
    while pending:
        members, room = [], CHUNK
        while pending and room:
            part = pending[0].take(room)
            members.append((pending[0], part))
            room -= len(part)
            if pending[0].computed + len(part) == pending[0].prompt:
                pending.pop(0)
            else:
                break
        forward(members)


def run(prompts, tokens):
    streams = [Stream(number, prompt) for number, prompt in enumerate(prompts)]
    began_s = SYSTEM.monotonic_s()
    prefill(streams)
    prefill_s = SYSTEM.monotonic_s() - began_s
    for _ in range(tokens - 1):
        forward([(stream, stream.take(1)) for stream in streams])
    total_s = SYSTEM.monotonic_s() - began_s
    for stream in streams:
        stream.tables.release()
        executor.forget(stream.number)
    return prefill_s, total_s, [stream.known[-1] for stream in streams]


facts = {
    "name": "Kelm executor",
    "version": kelm.__version__,
    "runs_as": f"Executor.forward in a loop, argmax by numpy, executor {executor.name}",
    "precision": llm.info.dtype,
    "weight_bytes": llm.info.weight_bytes,
    "kv": KV_ITEM.get(llm.info.dtype, "bf16"),
    "threads": threads,
    "executor": executor.name,
}
serve(line, facts, run)
