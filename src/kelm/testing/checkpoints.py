"""Tiny random Llama checkpoints that load and run like real ones: weights by numpy, tokenizer by tokenizers.py."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from kelm.testing import tokenizers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """config.json's names. The gain of the weights keeps logits spread and attention peaked, as trained models' are."""

    hidden_size: int = 32
    intermediate_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512


def write_llama(folder: Path, seed: int = 0, shape: Shape | None = None) -> Path:
    """A random float32 Llama with a byte-level BPE tokenizer and a ChatML template; returns ``folder``."""
    shape = shape or Shape()
    tokenizers.write(folder, "byte_level", {"chat_template": CHATML})
    made = tokenizers.make("byte_level")
    vocab, end = made.get_vocab_size(), made.token_to_id("<|im_end|>")
    config = {
        **asdict(shape),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "head_dim": shape.hidden_size // shape.num_attention_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": made.token_to_id("<s>"),
        "eos_token_id": end,
        "attention_bias": False,
        "mlp_bias": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(shape, vocab, np.random.default_rng(seed)), folder / "model.safetensors", {"format": "pt"})
    return folder


def _weights(shape: Shape, vocab: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    kv_width = hidden // shape.num_attention_heads * shape.num_key_value_heads

    def random(*size: int) -> NDArray[np.float32]:
        return rng.standard_normal(size).astype(np.float32) * np.float32(2 / np.sqrt(size[-1]))

    ones = np.ones(hidden, np.float32)
    weights = {"model.embed_tokens.weight": random(vocab, hidden), "model.norm.weight": ones.copy()}
    for layer in range(shape.num_hidden_layers):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": ones.copy(),
            f"{at}.post_attention_layernorm.weight": ones.copy(),
            f"{at}.self_attn.q_proj.weight": random(hidden, hidden),
            f"{at}.self_attn.k_proj.weight": random(kv_width, hidden),
            f"{at}.self_attn.v_proj.weight": random(kv_width, hidden),
            f"{at}.self_attn.o_proj.weight": random(hidden, hidden),
            f"{at}.mlp.gate_proj.weight": random(inner, hidden),
            f"{at}.mlp.up_proj.weight": random(inner, hidden),
            f"{at}.mlp.down_proj.weight": random(hidden, inner),
        }
    return weights
