"""What sentence-transformers' files say about a checkpoint: pooling, and the longest text it was made for.

modules.json                [{"idx": 0, "path": "", "type": "...Transformer"}, {"path": "1_Pooling", ...}, ...]
1_Pooling/config.json       {"pooling_mode_mean_tokens": true, ...}
sentence_bert_config.json   {"max_seq_length": 256, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kelm.errors import UnsupportedModel
from kelm.limits import POSITIONS, TOKENIZER_BYTES, VOCAB
from kelm.models.encoder_spec import Pooling
from kelm.models.fields import read_json, read_json_list

MODULES, POOLING, LENGTH = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
_TOKENS, _NAMING = "tokenizer.json", ("tokenizer_config.json", "special_tokens_map.json")
_KNOWN = {"Transformer", "Pooling", "Normalize"}
_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    pooling: Pooling = "mean"
    max_tokens: int | None = None
    """None: the position table is the bound."""


def read_sentence(files: Mapping[str, str]) -> Sentence:
    """Raises UnsupportedModel for a part that changes vectors and isn't native (max pooling, a dense layer)."""
    if MODULES in files:
        for module in read_json_list(files[MODULES], MODULES):
            kind = module.text("type").rpartition(".")[2]
            if kind not in _KNOWN:
                raise UnsupportedModel(f"{MODULES}: {kind} is not native; {', '.join(sorted(_KNOWN))} are")
    return Sentence(_pooling(files), _length(files))


def _pooling(files: Mapping[str, str]) -> Pooling:
    if POOLING not in files:
        return "mean"
    config = read_json(files[POOLING], POOLING)
    if "pooling_mode" in config:  # sentence-transformers 5
        asked = [f"pooling_mode_{config.text('pooling_mode')}"]
        known = {name.removesuffix("_tokens").removesuffix("_token"): mode for name, mode in _MODES.items()}
    else:
        asked = [name for name in config if name.startswith("pooling_mode_") and config.flag(name, False)]
        known = dict(_MODES)
    modes = {known.get(name) for name in asked}
    if len(modes) != 1 or None in modes:
        raise UnsupportedModel(f"{POOLING}: {', '.join(asked) or 'no mode'}; native is one of {', '.join(known)}")
    return modes.pop() or "mean"


def _length(files: Mapping[str, str]) -> int | None:
    if LENGTH not in files:
        return None
    config = read_json(files[LENGTH], LENGTH)
    return config.integer("max_seq_length", POSITIONS) if "max_seq_length" in config else None


def mask_token(files: Mapping[str, str]) -> int | None:
    """The id that stands for a hidden word, from the tokenizer's files; None when they don't say."""
    name = next((n for n in (_named_mask(files, f) for f in _NAMING) if n), None)
    if name is None or _TOKENS not in files:
        return None
    for entry in read_json(files[_TOKENS], _TOKENS, TOKENIZER_BYTES).objects("added_tokens"):
        if entry.text("content", "") == name:
            return entry.integer("id", replace(VOCAB, least=0))
    return None


def _named_mask(files: Mapping[str, str], file: str) -> str | None:
    """``mask_token`` of a file: a string, or an object with ``content``."""
    if file not in files:
        return None
    config = read_json(files[file], file)
    value = config.raw("mask_token")
    if isinstance(value, dict):
        return config.table("mask_token").text("content", "") or None
    return value if isinstance(value, str) else None
