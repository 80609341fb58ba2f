"""What the decoder families' checkpoints call their tensors (Layout), one entry a naming."""

from __future__ import annotations

from dataclasses import replace

from kelm.models.layout import Layout

LLAMA = Layout(
    prefixes=("model.",),
    embed="embed_tokens",
    layer="layers.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    final_norm="norm",
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
)
GEMMA = replace(
    LLAMA,
    mlp_norm="pre_feedforward_layernorm",
    post_attention_norm="post_attention_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
)
GPT2 = Layout(
    prefixes=("transformer.", ""),
    embed="wte",
    positions="wpe",
    layer="h.{}.",
    attention_norm="ln_1",
    qkv=("attn.c_attn",),
    out="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    final_norm="ln_f",
    transposed=True,
    ignored=("attn.bias", "attn.masked_bias"),
)
