"""OpenVINO GenAI in process. Usage: genai.py FOLDER THREADS

One stream goes through LLMPipeline, several through ContinuousBatchingPipeline, as its documentation has it; KV is
kept in bf16, where its own choice would be 8 bits."""

import sys
from pathlib import Path

from line import open_line, serve

line = open_line()

import time  # noqa: E402

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
import openvino_genai as api  # noqa: E402

KV_GIB = 2


class OpenVino:
    def __init__(self, folder, threads):
        self.folder = folder
        self.config = {"INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": ov.Type.bf16}
        self.pipe, self.batched = None, None
        self.requests = 0
        self._have(batched=False)

    def run(self, prompts, tokens):
        self._have(batched=len(prompts) > 1)
        config = api.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.do_sample = True, False
        ids = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        return self._several(ids, config) if self.batched else self._one(ids[0], config)

    def _have(self, *, batched):
        """One of the two pipelines; the other one's memory is given back."""
        if self.batched is batched:
            return
        self.pipe, self.batched = None, batched
        if not batched:
            self.pipe = api.LLMPipeline(self.folder, "CPU", **self.config)
            return
        scheduler = api.SchedulerConfig()
        scheduler.cache_size, scheduler.max_num_batched_tokens, scheduler.max_num_seqs = KV_GIB, 2048, 64
        scheduler.enable_prefix_caching = False
        self.pipe = api.ContinuousBatchingPipeline(self.folder, scheduler, "CPU", self.config)

    def _one(self, ids, config):
        inputs = api.TokenizedInputs(ids, ov.Tensor(np.ones(ids.shape, np.int64)))
        began_s = time.perf_counter()
        result = self.pipe.generate(inputs, config)
        total_s = time.perf_counter() - began_s
        assert result.perf_metrics.get_num_generated_tokens() == config.max_new_tokens
        return result.perf_metrics.get_ttft().mean / 1e3, total_s

    def _several(self, ids, config):
        began_s = time.perf_counter()
        # A request whose handle is dropped is dropped too, so they are all held to the end.
        handles = [self.pipe.add_request(self.requests + at, one, config) for at, one in enumerate(ids)]
        self.requests += len(ids)
        prefill_s = None
        while self.pipe.has_non_finished_requests():
            self.pipe.step()
            if prefill_s is None and all(handle.can_read() for handle in handles):
                prefill_s = time.perf_counter() - began_s
        made = [sum(len(one.generated_ids) for one in handle.read_all()) for handle in handles]
        assert made == [config.max_new_tokens] * len(ids), made
        return prefill_s, time.perf_counter() - began_s


folder, threads = sys.argv[1], int(sys.argv[2])
pipeline = OpenVino(folder, threads)
facts = {
    "name": "OpenVINO GenAI",
    "version": api.__version__,
    "runs_as": "LLMPipeline; ContinuousBatchingPipeline for several streams",
    "precision": folder.rpartition("-ov-")[2],
    "weight_bytes": Path(folder, "openvino_model.bin").stat().st_size,
    "kv": "bf16",
    "threads": threads,
}
serve(line, facts, pipeline.run)
