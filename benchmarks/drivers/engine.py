"""Kelm in process, as ``kelm.LLM`` has it: scheduler, sampler, detokenizer. Usage: engine.py MODEL DTYPE THREADS

The home is KELM_HOME."""

import os
import sys

from line import open_line, serve

line = open_line()

model, dtype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ["OMP_NUM_THREADS"] = str(threads)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import kelm  # noqa: E402
from kelm.bench.measure import Stopwatch  # noqa: E402
from kelm.clock import SYSTEM  # noqa: E402

KV_ITEM = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}

llm = kelm.LLM(model, dtype=dtype, threads=threads)


def run(prompts, tokens):
    watch = Stopwatch(len(prompts), SYSTEM)
    params = kelm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    began_s = SYSTEM.monotonic_s()
    results = llm.generate(prompts, params, watch=watch)
    return watch.prefill_s, SYSTEM.monotonic_s() - began_s, [one.token_ids[-1] for one in results]


facts = {
    "name": "Kelm",
    "version": kelm.__version__,
    "runs_as": f"kelm.LLM, executor {llm.info.executor}",
    "precision": llm.info.dtype,
    "weight_bytes": llm.info.weight_bytes,
    "kv": KV_ITEM.get(llm.info.dtype, "bf16"),
    "threads": threads,
    "executor": llm.info.executor,
}
serve(line, facts, run)
