"""Rotary settings of a config.json, in the old form (rope_theta, rope_scaling) and the new (rope_parameters)."""

from __future__ import annotations

import math

from kelm.errors import UnsupportedModel
from kelm.limits import POSITIONS
from kelm.models.fields import Fields
from kelm.ops.rotation import LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling

_KINDS = ("full_attention", "sliding_attention")
_OLD_THETA = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}


def read_rope(config: Fields, kind: str | None = None, theta: float = 10_000.0) -> Rope:
    """The rotary positions of ``config``; ``kind``: those of one of two sorts of layers (Gemma 3).

    ``theta`` is the family's default. Raises UnsupportedModel for stretchings that depend on the text's length
    (dynamic, longrope): with them a token's key would change as the text grows.
    """
    settings = _settings(config, kind)
    theta = settings.number("rope_theta", _old_theta(config, kind, theta))
    partial = settings.raw("partial_rotary_factor") or config.raw("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise UnsupportedModel(f"config.json: partial_rotary_factor is {partial!r}; native families turn whole heads")
    return Rope(theta, _scaling(config, settings))


def _old_theta(config: Fields, kind: str | None, default: float) -> float:
    return config.number(_OLD_THETA[kind or "full_attention"], default)


def _settings(config: Fields, kind: str | None) -> Fields:
    """The object that holds type, factor, ...: rope_scaling goes first, as in the reference implementation."""
    new = config.table("rope_parameters")
    if kind is None:
        return config.table("rope_scaling") or new
    if any(name in new for name in _KINDS):
        return new.table(kind)
    # The old form scales the full layers only.
    return config.table("rope_scaling") if kind == "full_attention" else Fields({}, "rope_scaling.")


def _rope_type(settings: Fields) -> str:
    return settings.text("rope_type", settings.text("type", "default"))


def _scaling(config: Fields, settings: Fields) -> Scaling | None:
    match _rope_type(settings):
        case "default":
            return None
        case "linear":
            return LinearScaling(settings.number("factor"))
        case "llama3":
            return _llama3(config, settings)
        case "yarn":
            return _yarn(config, settings)
        case other:
            raise UnsupportedModel(f"config.json: rope type {other!r} is not native (default, linear, llama3, yarn)")


def _original(config: Fields, settings: Fields) -> int:
    """The context before stretching; a value beside the object goes before the one in it."""
    holder = config if "original_max_position_embeddings" in config else settings
    if "original_max_position_embeddings" in holder:
        return holder.integer("original_max_position_embeddings", POSITIONS)
    return config.integer("max_position_embeddings", POSITIONS)


def _llama3(config: Fields, settings: Fields) -> Llama3Scaling:
    low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
    if high <= low:
        raise settings.wrong("high_freq_factor", f"above low_freq_factor ({low:g})")
    return Llama3Scaling(settings.number("factor"), low, high, _original(config, settings))


def _yarn(config: Fields, settings: Fields) -> YarnScaling:
    factor = settings.number("factor")
    attention = settings.number("attention_factor", _yarn_attention(settings, factor))
    fast, slow = settings.number("beta_fast", 32.0), settings.number("beta_slow", 1.0)
    return YarnScaling(factor, _original(config, settings), attention, fast, slow, settings.flag("truncate", True))


def _yarn_attention(settings: Fields, factor: float) -> float:
    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if settings.raw("mscale") and settings.raw("mscale_all_dim"):
        return temperature(settings.number("mscale")) / temperature(settings.number("mscale_all_dim"))
    return temperature(1.0)


def stretched_tokens(config: Fields, tokens: int) -> int:
    """The longest context: ``tokens`` (max_position_embeddings), more where YaRN stretches beyond it."""
    settings = _settings(config, None)
    if _rope_type(settings) != "yarn":
        return tokens
    return max(tokens, int(settings.number("factor") * _original(config, settings)))
