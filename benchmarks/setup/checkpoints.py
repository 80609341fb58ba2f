"""A random-weight checkpoint in a real model's shape (Hugging Face layout, bf16) with a working byte-level tokenizer.

Usage: checkpoints.py FOLDER qwen05|llama1b. Speed does not depend on what the weights are; nothing about quality can
be read off them.
"""

import pathlib
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

COMMON = {"tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "dtype": "bfloat16"}
SHAPES = {
    "qwen05": (  # Qwen2.5-0.5B
        Qwen2ForCausalLM,
        Qwen2Config(
            vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
            num_key_value_heads=2, max_position_embeddings=32768, rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON,
        ),
    ),
    "llama1b": (  # Llama-3.2-1B
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, **COMMON,
        ),
    ),
}  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer():
    """Trained on the standard library, which is everywhere."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train([str(path) for path in sorted(pathlib.Path(pathlib.__file__).parent.glob("*.py"))], trainer)
    end = SPECIAL[0]
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, bos_token=end, pad_token=end)
    made.chat_template = TEMPLATE
    return made


def make(folder, name):
    kind, config = SHAPES[name]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = kind(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.fill_(1) if weight.dim() == 1 and "norm" in key else weight.normal_(0, 0.02)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    tokenizer().save_pretrained(folder / name)
    model.save_pretrained(folder / name)


make(pathlib.Path(sys.argv[1]), sys.argv[2])
