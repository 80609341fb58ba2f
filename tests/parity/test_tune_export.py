"""What training computes is what `transformers` computes from the exported folder, tokens and template included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from kelm.tune import bpe, documents
from kelm.tune.decoder import Decoder
from kelm.tune.export import export
from kelm.tune.recipe import Recipe, load

MESSAGES = [
    ("system", "Be brief."),
    ("user", "how do I see what runs? <|end|>"),
    ("assistant", "Use `kelm ps`."),
    ("user", "怎么卸载 🐱?"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Decoder, documents.Encoder]:
    folder = tmp_path_factory.mktemp("export")
    tree = {
        "name": "odd",
        "history_messages": 5,
        "data": {"files": "*.jsonl", "heldout_files": "*.jsonl"},
        "tokenizer": {"vocab_size": 330},
        "model": {
            "hidden_size": 36,
            "intermediate_size": 52,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "rope_theta": 500.0,
        },
        "train": {"steps": 1, "batch_rows": 1, "row_tokens": 64, "learning_rate": 0.01},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    recipe = load(folder / "recipe.yaml")
    tokenizer = bpe.train([text for _, text in MESSAGES] * 3, recipe.tokenizer.vocab_size)
    encoder = documents.Encoder(tokenizer, 1.0)
    decoder = Decoder(recipe.model, tokenizer.get_vocab_size()).eval()
    decoder.initialize(torch.Generator().manual_seed(7))
    with torch.no_grad():
        for parameter in decoder.parameters():
            scaled = parameter * 9 if parameter.dim() > 1 else parameter + 0.3 * torch.randn(parameter.shape)
            parameter.copy_(scaled.to(torch.bfloat16))  # what the file can hold
    export(folder / "out", recipe, decoder, tokenizer)
    tokenizer.encode_special_tokens = True
    return folder / "out", recipe, decoder, encoder


def test_logits_are_those_of_transformers(made: tuple[Path, Recipe, Decoder, documents.Encoder]) -> None:
    folder, _, decoder, _ = made
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, 262, (2, 100), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(100).expand(2, -1)
    with torch.no_grad():
        ours = decoder(ids, positions, torch.ones_like(ids))
        expected = theirs(ids).logits
    assert float((ours - expected).abs().max() / expected.std()) < 1e-4


def test_the_template_renders_what_training_saw(made: tuple[Path, Recipe, Decoder, documents.Encoder]) -> None:
    folder, _, _, encoder = made
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": role, "content": content} for role, content in MESSAGES if "<|" not in content]
    plain = [(role, content) for role, content in MESSAGES if "<|" not in content]
    rendered = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert rendered == encoder.encode([plain])[0].ids.tolist()
    prompted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompted == [*rendered, tokenizer.convert_tokens_to_ids("<|assistant|>")]


def test_the_template_keeps_the_last_messages(made: tuple[Path, Recipe, Decoder, documents.Encoder]) -> None:
    folder, recipe, _, _ = made
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": role, "content": f"message {i}."} for i, role in enumerate(["user", "assistant"] * 6)]
    text = tokenizer.apply_chat_template(chat[:-1], tokenize=False)
    assert [f"message {i}." in text for i in range(11)] == [i >= 11 - recipe.history_messages for i in range(11)]
    assert text.startswith("<|begin|><|user|>message 6")
