"""For each native encoder family, small random configs with odd sizes, with every head."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import transformers
from parity_kit import files_of

HEADS = {
    "none": transformers.AutoModel,
    "classify": transformers.AutoModelForSequenceClassification,
    "token_classify": transformers.AutoModelForTokenClassification,
    "fill_mask": transformers.AutoModelForMaskedLM,
}
MASK = 4


def _sizes(rng: random.Random) -> dict[str, int]:
    heads = rng.choice([1, 3, 4])
    return {"heads": heads, "hidden": heads * rng.choice([7, 11, 16]), "inner": rng.choice([45, 61]), "layers": 2}


def _common(rng: random.Random, labels: int) -> dict[str, object]:
    return {
        "vocab_size": rng.choice([97, 131]),
        "max_position_embeddings": rng.choice([320, 350]),
        "id2label": {i: f"label {i}" for i in range(labels)},
        "label2id": {f"label {i}": i for i in range(labels)},
        "tie_word_embeddings": rng.random() < 0.6,
    }


def bert_like(kind: type) -> object:
    def make(rng: random.Random, labels: int) -> transformers.PreTrainedConfig:
        s = _sizes(rng)
        return kind(
            **_common(rng, labels),
            hidden_size=s["hidden"],
            num_attention_heads=s["heads"],
            num_hidden_layers=s["layers"],
            intermediate_size=s["inner"],
            hidden_act=rng.choice(["gelu", "gelu_new", "relu"]),
            type_vocab_size=rng.choice([1, 2]),
            layer_norm_eps=rng.choice([1e-12, 1e-3]),
        )

    return make


def distilbert(rng: random.Random, labels: int) -> transformers.PreTrainedConfig:
    s = _sizes(rng)
    return transformers.DistilBertConfig(
        **_common(rng, labels),
        dim=s["hidden"],
        n_heads=s["heads"],
        n_layers=s["layers"],
        hidden_dim=s["inner"],
        activation=rng.choice(["gelu", "relu"]),
    )


CONFIGS = {
    "bert": bert_like(transformers.BertConfig),
    "roberta": bert_like(transformers.RobertaConfig),
    "xlm-roberta": bert_like(transformers.XLMRobertaConfig),
    "distilbert": distilbert,
}
LABELS = [1, 3, 5]


@torch.no_grad()
def build(family: str, head: str, seed: int) -> transformers.PreTrainedModel:
    """A lively random model: peaked attention, norms and biases away from their defaults, spread logits."""
    rng = random.Random(f"{family}{head}{seed}")
    config = CONFIGS[family](rng, LABELS[seed % len(LABELS)])
    torch.manual_seed(seed)
    model = HEADS[head].from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim == 1:
            p.copy_(p + 0.3 * noise)
        elif "embeddings" in name:
            p.copy_(noise)
        else:
            sharp = 2.2 if any(part in name for part in ("query", "key", "q_lin", "k_lin")) else 1.2
            p.copy_(noise * sharp / p.shape[1] ** 0.5)
    return model


def save(model: transformers.PreTrainedModel, folder: Path) -> dict[str, str]:
    """Files as a hub repository has them; the tokenizer's hold what a masked LM needs."""
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))
    tokens = [{"id": MASK, "content": "<mask>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    return files_of(folder)


def texts(model: transformers.PreTrainedModel, seed: int, lengths: tuple[int, ...] = (1, 2, 17, 64, 65, 300)) -> list:
    """Random ids of each length, RoBERTa's padding id and mask tokens among them."""
    rng = random.Random(seed)
    return [[rng.choice([MASK, 1, *range(model.config.vocab_size)]) for _ in range(n)] for n in lengths]
