"""A home with tiny models, and a kernel on it, for the tests of this folder."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from kelm.clock import SYSTEM
from kelm.config import load_settings
from kelm.kernel.kernel import Kernel
from kelm.kernel.process import Process
from kelm.kernel.requests import Chunk, Generation
from kelm.store import Store
from kelm.wire.messages import Sampling

SCRIPTED = Path(__file__).with_name("scripted_worker.py")
VOCAB = 256
EOS = 0


def write_model(folder: Path, seed: int = 0, hidden: int = 32, layers: int = 2) -> Path:
    """A random llama whose token i is byte i."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": hidden,
        "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": hidden // 4, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32",
        "bos_token_id": 1, "eos_token_id": EOS, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(_weights(config, np.random.default_rng(seed)), folder / "model.safetensors")
    return folder


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    spelled = {ByteLevel(add_prefix_space=False).pre_tokenize_str(bytes([b]).decode())[0][0]: b for b in range(128)}
    free = [b for b in range(VOCAB) if b not in spelled.values()]
    vocab = spelled | dict(zip((c for c in alphabet if c not in spelled), free, strict=True))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _weights(config: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    hidden, inner, kv = config["hidden_size"], config["intermediate_size"], config["num_key_value_heads"]
    kv_width = kv * config["head_dim"]

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 2 / np.sqrt(shape[-1])).astype(np.float32)

    weights = {"model.embed_tokens.weight": random(VOCAB, hidden), "model.norm.weight": np.ones(hidden, np.float32)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": np.ones(hidden, np.float32),
            f"{at}.post_attention_layernorm.weight": np.ones(hidden, np.float32),
            f"{at}.self_attn.q_proj.weight": random(hidden, hidden),
            f"{at}.self_attn.k_proj.weight": random(kv_width, hidden),
            f"{at}.self_attn.v_proj.weight": random(kv_width, hidden),
            f"{at}.self_attn.o_proj.weight": random(hidden, hidden),
            f"{at}.mlp.gate_proj.weight": random(inner, hidden),
            f"{at}.mlp.up_proj.weight": random(inner, hidden),
            f"{at}.mlp.down_proj.weight": random(hidden, inner),
        }
    return weights


@asynccontextmanager
async def kernel_on(home: Path, script: dict[str, Any] | None, **settings: Any) -> AsyncIterator[Kernel]:
    """A started kernel; ``script`` for the scripted worker, None for the real one. Drained at the end."""
    worker = None if script is None else [sys.executable, str(SCRIPTED), json.dumps(script)]
    flags = {"home": str(home), "memory": "256MiB", "threads": 1, "dtype": "float32", **settings}
    kernel = Kernel(load_settings(flags, {}), Store(home, packaged=home / "none"), SYSTEM, worker=worker)
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.drain(0)


def make_home(folder: Path, *names: str, **shape: int) -> Path:
    """A home with a model of each name, all different. ``shape``: as of write_model."""
    home = folder / "home"
    for seed, name in enumerate(names):
        Store(home, packaged=home / "none").import_folder(write_model(folder / name, seed, **shape), name)
    return home


def generation(
    prompt: str, *, n: int = 1, model: str = "toy", stop: tuple[str, ...] = (), **sampling: Any
) -> Generation:
    picked = {"seed": 1, "max_tokens": 20, **sampling}
    return Generation(
        request_id=f"req-{prompt[:8]}",
        model=model,
        prompt=list(prompt.encode()),
        n=n,
        stop=stop,
        sampling=Sampling(**picked),
    )


@dataclass
class Answer:
    """Everything that a client saw."""

    texts: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)


async def read(process: Process) -> Answer:
    answer = Answer()
    async for chunk in process:
        answer.chunks.append(chunk)
        answer.texts[chunk.choice] = answer.texts.get(chunk.choice, "") + chunk.text
        answer.ids[chunk.choice] = answer.ids.get(chunk.choice, []) + chunk.ids
        if chunk.finish is not None:
            assert chunk.choice not in answer.ends, "a choice ended twice"
            answer.ends[chunk.choice] = chunk.finish
    return answer


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def sample(kernel: Kernel, name: str, **labels: str) -> float:
    """A metric's value now; 0 when it has none yet."""
    return kernel.metrics.registry.get_sample_value(name, labels) or 0.0
