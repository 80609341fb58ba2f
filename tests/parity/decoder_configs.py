"""For each native decoder family, small random configs with odd sizes."""

from __future__ import annotations

import random

import torch
import transformers
from parity_kit import make_lively


def _sizes(rng: random.Random) -> dict[str, object]:
    kv_heads = rng.choice([1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 3])
    head_dim = rng.choice([6, 10, 14, 16])
    return {
        "vocab_size": rng.choice([97, 131, 211]),
        "hidden_size": heads * rng.choice([7, 9, 11]),
        "intermediate_size": rng.choice([45, 61, 77]),
        "num_hidden_layers": rng.choice([2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "rms_norm_eps": rng.choice([1e-5, 1e-3]),
        "tie_word_embeddings": rng.random() < 0.5,
    }


def _rope(rng: random.Random) -> dict[str, object]:
    return rng.choice([
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5},
        {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64},
    ])  # fmt: skip


def llama(rng: random.Random) -> transformers.PreTrainedConfig:
    return transformers.LlamaConfig(
        **_sizes(rng), rope_parameters=_rope(rng), attention_bias=rng.random() < 0.5, mlp_bias=rng.random() < 0.5
    )


def qwen2(rng: random.Random) -> transformers.PreTrainedConfig:
    return transformers.Qwen2Config(**_sizes(rng), rope_parameters=_rope(rng), **_late_windows(rng))


def _late_windows(rng: random.Random) -> dict[str, object]:
    if rng.random() < 0.3:
        return {"use_sliding_window": False}
    return {"use_sliding_window": True, "sliding_window": rng.choice([7, 33, 70]), "max_window_layers": 1}


CONFIGS = {"llama": llama, "qwen2": qwen2}


def build(family: str, seed: int) -> transformers.PreTrainedModel:
    """A lively random model of ``family``; everything about it follows from ``seed``."""
    config = CONFIGS[family](random.Random(f"{family}{seed}"))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    make_lively(model, seed)
    return model
