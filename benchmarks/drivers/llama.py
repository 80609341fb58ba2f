"""llama.cpp in process: llama_decode in a loop, greedy by numpy. Usage: llama.py FILE.gguf THREADS"""

import os
import sys
from pathlib import Path

from line import open_line, serve

line = open_line()

import ctypes  # noqa: E402
import time  # noqa: E402

import llama_cpp as api  # noqa: E402
import numpy as np  # noqa: E402

BATCH = 2048


class Llama:
    def __init__(self, path, threads):
        self.quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(path.encode(), params)
        assert self.model, path
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.threads = threads
        self.batch = api.llama_batch_init(BATCH, 0, 1)
        self.context, self.shape = None, None

    def run(self, prompts, tokens):
        self._prepare(len(prompts), len(prompts[0]) + tokens)
        began_s = time.perf_counter()
        last = self._prefill(prompts)
        prefill_s = time.perf_counter() - began_s
        for done in range(tokens - 1):
            rows = [(token, len(prompts[seq]) + done, seq, True) for seq, token in enumerate(last)]
            last = list(self._decode(rows).values())
        return prefill_s, time.perf_counter() - began_s

    def _prepare(self, streams, length):
        """A context of this shape, empty. Each sequence has KV of its own, as llama-server's slots have."""
        if self.shape != (streams, length):
            if self.context:
                api.llama_free(self.context)
            params = api.llama_context_default_params()
            params.n_seq_max, params.n_batch, params.n_ubatch = streams, BATCH, 512
            params.n_ctx = streams * -(-length // 256) * 256
            params.n_threads = params.n_threads_batch = self.threads
            params.kv_unified, params.no_perf = os.environ.get("KV_UNIFIED") == "1", True
            self.context, self.shape = api.llama_init_from_model(self.model, params), (streams, length)
            assert self.context, "no memory for a context"
        api.llama_memory_clear(api.llama_get_memory(self.context), True)

    def _prefill(self, prompts):
        rows = [
            (token, place, seq, place == len(prompt) - 1)
            for seq, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        picked = {}
        for start in range(0, len(rows), BATCH):
            picked |= self._decode(rows[start : start + BATCH])
        return [picked[seq] for seq in range(len(prompts))]

    def _decode(self, rows):
        """The most likely token after each wanted row, by sequence. ``rows``: (token, position, sequence, wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for at, (token, place, seq, wanted) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.logits[at] = token, place, wanted
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, seq
        assert api.llama_decode(self.context, batch) == 0
        return {seq: self._pick(at) for at, (_, _, seq, wanted) in enumerate(rows) if wanted}

    def _pick(self, row):
        logits = api.llama_get_logits_ith(self.context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self.vocab,))))


path, threads = sys.argv[1], int(sys.argv[2])
llama = Llama(path, threads)
facts = {
    "name": "llama.cpp, passive" if os.environ.get("OMP_WAIT_POLICY") == "PASSIVE" else "llama.cpp",
    "version": f"llama-cpp-python {api.__version__}",
    "runs_as": "llama_decode in a loop, argmax by numpy",
    "precision": Path(path).stem,
    "weight_bytes": Path(path).stat().st_size,
    "kv": "f16",
    "threads": threads,
}
serve(line, facts, llama.run)
