"""The model that is tuned: what it can be taught, and whether there is memory for it, before its weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kelm.errors import InvalidRequest, OutOfMemory, UnsupportedModel
from kelm.models.encoder_families import ENCODER_FAMILIES
from kelm.models.fields import read_json
from kelm.models.sentence import read_sentence
from kelm.models.weights import Checkpoint
from kelm.store import Manifest, Name, Store
from kelm.text.tokenizer import Tokenizer
from kelm.tune.data import Data
from kelm.tune.methods import Plan

CONFIG = "config.json"
_MOST_TOKENS = 512
"""Of one example: attention's memory grows with its square, and intents and answers are short."""
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Base:
    """A model of the store, opened as far as its config and tokenizer."""

    manifest: Manifest
    files: Mapping[str, str]
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        return Name.parse(self.manifest.name).short

    @property
    def is_encoder(self) -> bool:
        return self.config.get("model_type") in ENCODER_FAMILIES

    @property
    def width(self) -> int:
        return int(self.config.get("hidden_size") or self.config.get("n_embd") or self.config.get("dim") or 1024)

    @property
    def parameters(self) -> int:
        return sum(torch.Size(entry.shape).numel() for entry in self.checkpoint.entries.values())

    @property
    def dtype(self) -> torch.dtype:
        """In which it is served, if the daemon isn't told otherwise."""
        return self.checkpoint.dtype(next(iter(self.checkpoint.entries)))

    @property
    def most_tokens(self) -> int:
        """Of one example, as it is served and as there is memory to learn it."""
        context = next((int(self.config[name]) for name in _CONTEXTS if self.config.get(name)), _MOST_TOKENS)
        sentence = read_sentence(self.files).max_tokens if self.is_encoder else None
        return min(context, sentence or context, _MOST_TOKENS)

    def check(self, data: Data) -> None:
        """Raise UnsupportedModel or InvalidRequest when this model can't be taught this kind of data."""
        if data.kind == "classification" and not self.is_encoder:
            raise UnsupportedModel(
                f"{self.name} is a decoder, and {data.name} has texts and labels, which teach an encoder; tune one "
                '(of BERT\'s relatives), or write conversations: {"messages": [...]} a line'
            )
        if data.kind == "chat" and self.is_encoder:
            raise UnsupportedModel(
                f"{self.name} is an encoder, and {data.name} has conversations, which teach a decoder; tune one that "
                "chats, or write a CSV with the columns text,label"
            )
        if data.kind == "chat" and self.tokenizer.chat_template is None:
            raise InvalidRequest(f"{self.name} has no chat template, so there is no form to teach it conversations in")

    def check_memory(self, plan: Plan, most_bytes: int) -> None:
        """Raise OutOfMemory unless weights, optimizer and the states of one step fit into ``most_bytes``."""
        layers = int(self.config.get("num_hidden_layers") or self.config.get("n_layer") or 12)
        states = _MICRO_TOKENS * layers * (_STATES * self.width)
        vocab = 0 if self.is_encoder else 3 * _MICRO_TOKENS * int(self.config.get("vocab_size") or 0)
        trained = 4 * plan.rank * layers * _LINEARS * 2 * self.width
        needed = 4 * (self.parameters + trained + states + vocab)
        if needed > most_bytes:
            raise OutOfMemory(
                f"tuning {self.name} ({self.parameters / 1e6:.0f} million parameters) takes about {needed >> 20} MiB, "
                f"and a job may take {most_bytes >> 20} MiB here; set KELM_JOB_MEMORY higher and start the daemon "
                "again, or tune a smaller model"
            )


_MICRO_TOKENS = 2048
"""Of one forward and backward pass; a step is as many passes as its examples need."""
_STATES = 34
"""Numbers kept for a token in a layer, in widths: 17 (Korthikanti et al. 2022, arXiv 2205.05198), and as many again for
attention's square and the low-rank matrices."""
_LINEARS = 7


def open_base(store: Store, name: str) -> Base:
    """Raises ModelNotFound with near matches, InvalidRequest for a variant, ModelFormatError."""
    parsed = Name.parse(name)
    if parsed.variant is not None:
        raise InvalidRequest(
            f"{parsed.short} is a variant; a variant is tuned from its base, {parsed.base.short}: give that, and all "
            "the examples that it should know",
            param="base",
        )
    manifest = store.resolve(name)
    files = store.paths(manifest)
    read_json(files[CONFIG], CONFIG)  # bounded, and an object
    config = json.loads(Path(files[CONFIG]).read_bytes())
    family = ENCODER_FAMILIES.get(str(config.get("model_type")))
    renamed = family.layout.renamed if family else ()
    return Base(manifest, files, config, Checkpoint(files, renamed), Tokenizer.load(files))


def micro_batches(lengths: list[int]) -> list[slice]:
    """Examples in order, cut so that a padded piece has at most _MICRO_TOKENS tokens (or one example)."""
    pieces, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or max(lengths[start : end + 1]) * (end + 1 - start) > _MICRO_TOKENS:
            pieces.append(slice(start, end))
            start = end
    return pieces
