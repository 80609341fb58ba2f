"""vLLM on the CPU, in process and compiled. Usage: vllm_engine.py FOLDER THREADS"""

import os
import sys
from pathlib import Path

from line import open_line, serve

line = open_line()

import time  # noqa: E402

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}

CONTEXT = 4352


class Vllm:
    def __init__(self, folder):
        from vllm import LLM

        self.llm = LLM(
            model=folder,
            dtype="bfloat16",
            max_model_len=CONTEXT,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,
            enforce_eager=os.environ.get("EAGER") == "1",
        )
        self.requests = 0

    def run(self, prompts, tokens):
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        engine = self.llm.llm_engine
        began_s = time.perf_counter()
        for at, prompt in enumerate(prompts):
            engine.add_request(str(self.requests + at), {"prompt_token_ids": prompt}, params)
        self.requests += len(prompts)
        started, prefill_s = set(), None
        while engine.has_unfinished_requests():
            started |= {one.request_id for one in engine.step() if one.outputs and one.outputs[0].token_ids}
            if prefill_s is None and len(started) == len(prompts):
                prefill_s = time.perf_counter() - began_s
        return prefill_s, time.perf_counter() - began_s


if __name__ == "__main__":  # its workers import this file
    folder, threads = sys.argv[1], int(sys.argv[2])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    engine = Vllm(folder)
    import vllm

    facts = {
        "name": "vLLM",
        "version": vllm.__version__,
        "runs_as": "LLM, " + ("eager" if os.environ.get("EAGER") == "1" else "compiled"),
        "precision": "bf16",
        "weight_bytes": Path(folder, "model.safetensors").stat().st_size,
        "kv": "bf16",
        "threads": threads,
    }
    serve(line, facts, engine.run)
