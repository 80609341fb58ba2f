"""A random llama with a tokenizer and a chat template, small enough to be made in a moment and without torch. It has no
end token: an answer lasts until somebody stops it, or its room is full."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, LAYERS, MIDDLE, HEADS, KV_HEADS, CONTEXT = 32, 2, 48, 4, 2, 2048
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tiny(folder: Path, *, chat: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["hello world"],
        trainers.BpeTrainer(vocab_size=280, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    template = {"chat_template": TEMPLATE} if chat else {}
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", **template}))
    vocab = tokenizer.get_vocab_size()
    (folder / "config.json").write_text(json.dumps(_config(vocab)))
    save_file(_weights(vocab), folder / "model.safetensors")
    return folder


def _config(vocab: int) -> dict[str, object]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": MIDDLE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": vocab,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _weights(vocab: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (chance.standard_normal(shape) * 0.3).astype(np.float32)

    ones = np.ones(HIDDEN, np.float32)
    weights = {"model.embed_tokens.weight": normal(vocab, HIDDEN), "lm_head.weight": normal(vocab, HIDDEN)}
    weights["model.norm.weight"] = ones
    narrow = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, shape in (("q", (HIDDEN, HIDDEN)), ("k", (narrow, HIDDEN)), ("v", (narrow, HIDDEN))):
            weights[f"{at}.self_attn.{name}_proj.weight"] = normal(*shape)
        weights[f"{at}.self_attn.o_proj.weight"] = normal(HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            weights[f"{at}.mlp.{name}_proj.weight"] = normal(MIDDLE, HIDDEN)
        weights[f"{at}.mlp.down_proj.weight"] = normal(HIDDEN, MIDDLE)
        weights[f"{at}.input_layernorm.weight"] = weights[f"{at}.post_attention_layernorm.weight"] = ones.copy()
    return weights
