"""A recipe: the YAML page that says how a model is made. Unknown keys and values out of bounds are errors.

A recipe names a generator program beside it, which is run: use recipes you trust, as you would a Makefile."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from kelm import limits
from kelm.errors import ConfigError, InvalidRequest
from kelm.limits import Bound
from kelm.suggest import did_you_mean

T = TypeVar("T")


def _bounded(bound: Bound, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"bound": bound})


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where documents come from: a generator run with --split, --documents, --seed, --out, or JSONL files."""

    generator: str = ""
    files: str = ""
    """A glob of JSONL files, relative to the recipe; ``heldout_files`` then measures."""
    heldout_files: str = ""
    exclude: str = ""
    """Files (space-separated) handed to the generator as --exclude: texts that the corpus must not contain."""
    documents: int = _bounded(limits.RECIPE_DOCUMENTS, 1000)
    heldout_documents: int = _bounded(limits.RECIPE_DOCUMENTS, 1000)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    vocab_size: int = _bounded(limits.RECIPE_VOCAB)
    documents: int = _bounded(limits.RECIPE_DOCUMENTS, 50_000)
    """The tokenizer is trained on the first so many documents."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama-type decoder with tied embeddings; names as in config.json."""

    hidden_size: int = _bounded(limits.RECIPE_HIDDEN)
    intermediate_size: int = _bounded(limits.RECIPE_INTERMEDIATE)
    num_hidden_layers: int = _bounded(limits.RECIPE_LAYERS)
    num_attention_heads: int = _bounded(limits.RECIPE_HEADS)
    num_key_value_heads: int = _bounded(limits.RECIPE_HEADS)
    max_position_embeddings: int = _bounded(limits.RECIPE_CONTEXT)
    rope_theta: float = _bounded(limits.RECIPE_THETA, 10_000.0)

    def __post_init__(self) -> None:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):
            raise ConfigError(f"model.hidden_size {self.hidden_size} must be an even multiple of {heads} heads")
        if heads % kv_heads:
            raise ConfigError(f"model.num_key_value_heads {kv_heads} must divide num_attention_heads {heads}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class Training:
    steps: int = _bounded(limits.RECIPE_STEPS)
    batch_rows: int = _bounded(limits.RECIPE_BATCH_ROWS)
    row_tokens: int = _bounded(limits.RECIPE_ROW_TOKENS)
    learning_rate: float = _bounded(limits.RECIPE_LR)
    final_share: float = _bounded(limits.RECIPE_SHARE, 0.0)
    """Of the learning rate, at the last step."""
    warmup_steps: int = _bounded(limits.RECIPE_WARMUP, 0)
    beta1: float = _bounded(limits.RECIPE_BETA, 0.9)
    beta2: float = _bounded(limits.RECIPE_BETA, 0.98)
    weight_decay: float = _bounded(limits.RECIPE_DECAY, 0.1)
    clip_norm: float = _bounded(limits.RECIPE_CLIP, 1.0)
    dropout: float = _bounded(limits.RECIPE_DROPOUT, 0.0)
    prompt_loss: float = _bounded(limits.RECIPE_SHARE, 1.0)
    """Weight of the tokens that the model doesn't write (system and user messages); the rest count 1."""
    precision: str = field(default="bfloat16", metadata={"choices": ("bfloat16", "float32")})
    checkpoint_every: int = _bounded(limits.RECIPE_EVERY, 250)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    seed: int = _bounded(limits.RECIPE_SEED, 1)
    history_messages: int = _bounded(limits.MESSAGES, 5)
    """The chat template keeps the last so many messages, so that a long chat stays inside the context."""
    data: Data
    tokenizer: Tokens
    model: Shape
    train: Training
    folder: Path = field(default=Path(), metadata={"internal": True})
    digest: str = field(default="", metadata={"internal": True})
    """SHA-256 of the recipe's bytes."""


def load(path: Path) -> Recipe:
    """Read and check a recipe. Raises ConfigError naming the key, what was got and the limit."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    try:
        limits.RECIPE_BYTES.check(len(raw))
        tree = yaml.safe_load(raw)
    except (yaml.YAMLError, InvalidRequest, RecursionError) as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {error}") from error
    extra = {"folder": path.resolve().parent, "digest": hashlib.sha256(raw).hexdigest()}
    recipe = _build(Recipe, tree, "recipe", extra)
    if bool(recipe.data.generator) == bool(recipe.data.files):
        raise ConfigError("data needs exactly one of generator and files")
    if recipe.train.warmup_steps > recipe.train.steps:
        raise ConfigError(f"train.warmup_steps {recipe.train.warmup_steps} is over train.steps {recipe.train.steps}")
    return recipe


def _build(cls: type[T], tree: object, where: str, extra: Mapping[str, Any] | None = None) -> T:
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping of keys to values, got {type(tree).__name__}")
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if not f.metadata.get("internal")}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values: dict[str, Any] = dict(extra or {})
    for key, value in tree.items():
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in {where}{did_you_mean(str(key), known)}")
        values[key] = _value(known[key], hints[key], value, f"{where}.{key}")
    missing = [name for name, f in known.items() if name not in values and f.default is MISSING]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    return cls(**values)


def _value(declared: Field[Any], hint: Any, value: object, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    bound, choices = declared.metadata.get("bound"), declared.metadata.get("choices")
    if bound is not None:
        try:
            bound.check(value, field=where)
        except InvalidRequest as error:
            raise ConfigError(error.message) from error
        return hint(value)
    if not isinstance(value, str) or (choices and value not in choices):
        raise ConfigError(f"{where} must be {'one of ' + ', '.join(choices) if choices else 'a string'}, got {value!r}")
    return value
