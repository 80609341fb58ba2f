"""bf16.gguf beside a checkpoint of checkpoints.py. Usage: gguf_file.py FOLDER qwen2|llama"""

import json
import pathlib
import sys

import gguf
import torch
from safetensors import safe_open

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_config(writer, name, config):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def write_tokenizer(writer, tokenizer, vocab):
    known = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    kinds = [
        gguf.TokenType.CONTROL if i in added else gguf.TokenType.NORMAL if i in known else gguf.TokenType.UNUSED
        for i in range(vocab)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([added.get(i) or known.get(i) or f"[PAD{i}]" for i in range(vocab)])
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def gguf_name(key):
    if key in ("model.embed_tokens.weight", "model.norm.weight"):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[key]
    parts = key.split(".")
    return f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.{parts[-1]}"


def interleaved(tensor, heads):
    """Rotary pairs side by side, as llama.cpp has them for the architecture llama."""
    return (
        tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    )


def write_weights(writer, folder, arch, config):
    heads = {"attn_q.": config["num_attention_heads"], "attn_k.": config["num_key_value_heads"]}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118  (not a mapping)
            if key == "lm_head.weight":  # tied
                continue
            name, tensor = gguf_name(key), file.get_tensor(key)
            for part, count in heads.items():
                if arch == "llama" and part in name:
                    tensor = interleaved(tensor, count)
            if tensor.dim() == 1:
                writer.add_tensor(name, tensor.float().numpy())
            else:
                bits = tensor.contiguous().view(torch.uint8).reshape(tensor.shape[0], -1).numpy()
                writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)


def main(folder, arch):
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(folder / "bf16.gguf"), arch)
    write_config(writer, folder.name, config)
    write_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), config["vocab_size"])
    write_weights(writer, folder, arch, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(pathlib.Path(sys.argv[1]), sys.argv[2])
