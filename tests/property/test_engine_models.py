"""The identities of test_engine_identity.py with real arithmetic: tiny random llama and qwen2 (with a window), fp32."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from engine_kit import Shape, alone, baseline, joined, resubmissions, same, workload
from kelm.testing.drive import Driver, Transcript
from kelm.wire.messages import Sampling, Submit
from kelm.worker.executors import open_checkpoint
from kelm.worker.settings import EngineSettings

VOCAB = 131
SHAPE = Shape(VOCAB)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 40,
    "intermediate_size": 45,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=19, max_window_layers=1),
}


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request: pytest.FixtureRequest) -> transformers.PreTrainedModel:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param](), attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def make(
    reference: transformers.PreTrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[EngineSettings], Driver]:
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(folder)
    files = {path.name: str(path) for path in Path(folder).iterdir()}
    return lambda settings: Driver(settings, open_checkpoint, files)


def tight(seed: int) -> EngineSettings:
    """About two of the longest sequences at once."""
    rng = random.Random(seed)
    return EngineSettings(
        memory_bytes=64 << 20,
        kv_bytes=5 << 14,
        slab_bytes=1 << 14,
        step_tokens=rng.choice([16, 29, 64]),
        max_num_seqs=rng.choice([7, 64]),
        poison=True,
    )


def test_greedy_equals_transformers(make, reference) -> None:
    prompts = [[(i * 7 + j * j) % VOCAB for j in range(length)] for i, length in enumerate((1, 5, 40, 100))]
    greedy = Sampling(seed=0, max_tokens=40, temperature=0.0)
    heard = make(tight(0)).run([Submit(pid=i, model="model", prompt=p, sampling=greedy) for i, p in enumerate(prompts)])
    for pid, prompt in enumerate(prompts):
        with torch.no_grad():
            ids = torch.tensor([prompt])
            wanted = reference.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=40,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert heard.tokens[(pid, 0)] == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_of_32_in_a_tiny_pool(make, seed: int) -> None:
    requests = workload(random.Random(seed), 32, SHAPE)
    heard = make(tight(seed)).run(requests)
    same(heard, alone(make, requests))
    baseline(heard)
    assert heard.counters.preemptions > 0


@pytest.mark.parametrize("step_tokens", [16, 100, 512])
def test_any_chunk_size(make, step_tokens: int) -> None:
    requests = workload(random.Random(99), 32, SHAPE)
    kind = EngineSettings(memory_bytes=64 << 20, kv_bytes=16 << 20, slab_bytes=1 << 16, step_tokens=step_tokens)
    same(make(kind).run(requests), alone(make, requests))


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_at_any_step(make, seed: int) -> None:
    rng = random.Random(seed)
    requests = workload(rng, 12, SHAPE)
    first, heard = make(tight(seed)), Transcript()
    for request in requests:
        first.engine.submit(request)
    for _ in range(rng.randint(3, 50)):
        step = first.engine.step()
        if step is not None:
            heard.hear(step)
    second = make(tight(seed + 1)).run(resubmissions(requests, heard))
    same(joined(heard, second), alone(make, requests))
    baseline(second)
