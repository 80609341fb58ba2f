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
        {"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 64,
         "beta_fast": 3.0, "beta_slow": 0.5, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.4},
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


def mistral(rng: random.Random) -> transformers.PreTrainedConfig:
    return transformers.MistralConfig(**_sizes(rng), rope_parameters=_rope(rng), sliding_window=rng.choice([5, 40, 71]))


def qwen3(rng: random.Random) -> transformers.PreTrainedConfig:
    return transformers.Qwen3Config(
        **_sizes(rng), rope_parameters=_rope(rng), attention_bias=rng.random() < 0.5, **_late_windows(rng)
    )


def _gemma(rng: random.Random) -> dict[str, object]:
    return _sizes(rng) | {
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": rng.choice([2, 3, 5]),
        "sliding_window": rng.choice([5, 40, 71]),
        "attention_bias": rng.random() < 0.5,
        "hidden_activation": rng.choice(["gelu_pytorch_tanh", "gelu", "silu"]),
        "final_logit_softcapping": rng.choice([5.0, 9.0]),
    }


def gemma2(rng: random.Random) -> transformers.PreTrainedConfig:
    return transformers.Gemma2Config(
        **_gemma(rng), rope_parameters=_rope(rng), attn_logit_softcapping=rng.choice([9.0, 12.0])
    )


def gemma3_text(rng: random.Random) -> transformers.PreTrainedConfig:
    ropes = {"full_attention": _rope(rng), "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
    if ropes["full_attention"]["rope_type"] == "yarn":  # transformers 5.23 can't build it: it reads a flat "truncate"
        ropes["full_attention"] = {"rope_type": "linear", "rope_theta": 9000.0, "factor": 3.0}
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    return transformers.Gemma3TextConfig(**_gemma(rng), rope_parameters=ropes, layer_types=kinds)


def gpt2(rng: random.Random) -> transformers.PreTrainedConfig:
    heads = rng.choice([1, 3, 4])
    return transformers.GPT2Config(
        vocab_size=rng.choice([97, 131, 211]),
        n_embd=heads * rng.choice([7, 11, 16]),
        n_head=heads,
        n_layer=rng.choice([2, 3]),
        n_inner=rng.choice([None, 61]),
        n_positions=512,
        activation_function=rng.choice(["gelu_new", "relu", "gelu"]),
        layer_norm_epsilon=rng.choice([1e-5, 1e-3]),
        scale_attn_weights=rng.random() < 0.7,
        scale_attn_by_inverse_layer_idx=rng.random() < 0.5,
        tie_word_embeddings=rng.random() < 0.5,
        bos_token_id=None,
        eos_token_id=None,
    )


CONFIGS = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gpt2": gpt2,
}


def build(family: str, seed: int) -> transformers.PreTrainedModel:
    """A lively random model of ``family``; everything about it follows from ``seed``."""
    config = CONFIGS[family](random.Random(f"{family}{seed}"))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    make_lively(model, seed)
    return model
