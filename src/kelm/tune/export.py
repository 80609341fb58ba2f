"""The finished model as a folder that Kelm's loader and `transformers` both read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from kelm.tune.decoder import EPS, Decoder
from kelm.tune.documents import BEGIN, END, PAD, ROLES
from kelm.tune.recipe import Recipe

TEMPLATE = (
    "{{{{ '{begin}' }}}}"
    "{{% for message in messages[-{kept}:] %}}"
    "{{% if message['role'] in ['system', 'developer'] %}}{{{{ '{system}' }}}}"
    "{{% elif message['role'] == 'assistant' %}}{{{{ '{assistant}' }}}}"
    "{{% else %}}{{{{ '{user}' }}}}{{% endif %}}"
    "{{{{ message['content'] + '{end}' }}}}"
    "{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '{assistant}' }}}}{{% endif %}}"
)


def export(folder: Path, recipe: Recipe, decoder: Decoder, tokenizer: Tokenizer) -> None:
    """Write model.safetensors (bf16), config.json, generation_config.json, tokenizer.json, tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in decoder.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600
    # the encoder reads special tokens in text as plain text; a saved tokenizer has to know them
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    begin, end, pad = (tokenizer.token_to_id(token) for token in (BEGIN, END, PAD))
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    _write(folder / "config.json", _config(recipe, tokenizer.get_vocab_size()) | ids)
    _write(folder / "generation_config.json", {"do_sample": False, **ids})
    _write(folder / "tokenizer_config.json", _tokenizer_config(recipe))


def _config(recipe: Recipe, vocab: int) -> dict[str, object]:
    shape = recipe.model
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_position_embeddings,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": EPS,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def _tokenizer_config(recipe: Recipe) -> dict[str, object]:
    template = TEMPLATE.format(
        begin=BEGIN,
        end=END,
        kept=recipe.history_messages,
        **ROLES,
    )
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": recipe.model.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }


def _write(path: Path, tree: dict[str, object]) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
