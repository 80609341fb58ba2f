"""The decoder families that run natively: config.json -> DecoderSpec and Layout, one entry a ``model_type``.

Defaults of missing fields are those of the reference implementation (``transformers``), where a checkpoint's
config.json may rely on them; a size has none and must be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.limits import HEAD_DIM, HEADS, LAYERS, POSITIONS, VOCAB, WIDTH
from kelm.models.family_layouts import GEMMA, GPT2, LLAMA
from kelm.models.fields import Fields
from kelm.models.layout import Layout
from kelm.models.rope_config import read_rope, stretched_tokens
from kelm.models.spec import DecoderSpec, LayerSpec
from kelm.ops.activation import Activation
from kelm.ops.rotation import Rope


@dataclass(frozen=True, slots=True)
class Family:
    """What one ``model_type`` is: the class its checkpoints name, how to read its config, where its tensors lie."""

    architecture: str
    read: Callable[[Fields], DecoderSpec]
    layout: Layout
    context: Callable[[Fields], int]


_WINDOW = 4096
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


def read_activation(config: Fields, name: str, default: str) -> Activation:
    """The activation that field ``name`` asks for. Raises UnsupportedModel for one that has no op."""
    value = config.text(name, default)
    if value not in _ACTIVATIONS:
        raise UnsupportedModel(f"config.json: {name} is {value!r}; native families know {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[value]


def _llama_like(config: Fields, head_dim: int | None = None) -> DecoderSpec:
    """The plain decoder that the other families are small changes of: RMS norm, gated MLP, rotary, no biases."""
    hidden = config.integer("hidden_size", WIDTH)
    heads = config.integer("num_attention_heads", HEADS)
    kv_heads = config.integer("num_key_value_heads", HEADS, heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if head_dim is None and "head_dim" not in config and hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden}), as head_dim is not given")
    head_dim = config.integer("head_dim", HEAD_DIM, head_dim or max(1, hidden // heads))
    if head_dim % 2:
        raise config.wrong("head_dim", "even: rotary positions turn pairs")
    layer = LayerSpec(window=None, rope=read_rope(config), score_scale=head_dim**-0.5)
    return DecoderSpec(
        vocab=config.integer("vocab_size", VOCAB),
        hidden=hidden,
        intermediate=config.integer("intermediate_size", WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        layers=(layer,) * config.integer("num_hidden_layers", LAYERS),
        learned_positions=0,
        embedding_scale=1.0,
        norm="rms",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        qk_norm=False,
        post_norms=False,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        gated=True,
        activation=read_activation(config, "hidden_act", "silu"),
        score_cap=None,
        logit_cap=None,
        tied=config.flag("tie_word_embeddings", False),
    )


def _llama(config: Fields) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    return replace(_llama_like(config), qkv_bias=bias, out_bias=bias, mlp_bias=config.flag("mlp_bias", False))


def _mistral(config: Fields) -> DecoderSpec:
    spec = _llama_like(config)
    window = config.optional_integer("sliding_window", POSITIONS, _WINDOW)
    return replace(spec, layers=tuple(replace(layer, window=window) for layer in spec.layers))


def _qwen2(config: Fields) -> DecoderSpec:
    return replace(_with_late_windows(_llama_like(config), config), qkv_bias=True)


def _qwen3(config: Fields) -> DecoderSpec:
    spec = _with_late_windows(_llama_like(config, head_dim=128), config)
    bias = config.flag("attention_bias", False)
    return replace(spec, qk_norm=True, qkv_bias=bias, out_bias=bias)


def _with_late_windows(spec: DecoderSpec, config: Fields) -> DecoderSpec:
    """Qwen: windows only if ``use_sliding_window``, on the layers from ``max_window_layers`` on."""
    if not config.flag("use_sliding_window", False) or not config.optional_integer(
        "sliding_window", POSITIONS, _WINDOW
    ):
        return spec
    full = config.integer("max_window_layers", replace(LAYERS, least=0), 28)
    kinds = ["full_attention"] * min(full, len(spec.layers))
    kinds += ["sliding_attention"] * (len(spec.layers) - len(kinds))
    return _with_windows(spec, config, kinds)


def _with_windows(spec: DecoderSpec, config: Fields, kinds: list[str], local: Rope | None = None) -> DecoderSpec:
    """Windows on the layers that ``layer_types`` (default ``kinds``) calls sliding; they turn by ``local`` if given."""
    kinds = config.names("layer_types") or kinds
    if len(kinds) != len(spec.layers) or set(kinds) - {"full_attention", "sliding_attention"}:
        raise config.wrong("layer_types", f"{len(spec.layers)} of full_attention or sliding_attention")
    if "sliding_attention" not in kinds:
        return spec
    window = config.integer("sliding_window", POSITIONS, _WINDOW)
    layers = (
        replace(layer, window=window, rope=local or layer.rope) if kind == "sliding_attention" else layer
        for layer, kind in zip(spec.layers, kinds, strict=True)
    )
    return replace(spec, layers=tuple(layers))


def _gemma(config: Fields) -> DecoderSpec:
    if config.raw("use_bidirectional_attention"):
        raise UnsupportedModel("config.json: use_bidirectional_attention is set; native decoders are causal")
    spec = _llama_like(config, head_dim=256)
    scale = config.number("query_pre_attn_scalar", 256) ** -0.5
    bias = config.flag("attention_bias", False)
    return replace(
        spec,
        layers=tuple(replace(layer, score_scale=scale) for layer in spec.layers),
        embedding_scale=spec.hidden**0.5,
        norm="rms_plus_one",
        post_norms=True,
        qkv_bias=bias,
        out_bias=bias,
        activation=read_activation(config, "hidden_activation", "gelu_pytorch_tanh"),
        tied=config.flag("tie_word_embeddings", True),
    )


def _gemma2(config: Fields) -> DecoderSpec:
    spec = _gemma(config)
    kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(len(spec.layers))]
    return replace(
        _with_windows(spec, config, kinds),
        score_cap=config.optional_number("attn_logit_softcapping", 50.0),
        logit_cap=config.optional_number("final_logit_softcapping", 30.0),
    )


def _gemma3(config: Fields) -> DecoderSpec:
    spec = _gemma(config)
    pattern = config.integer("sliding_window_pattern", LAYERS, 6)
    kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(len(spec.layers))]
    everywhere = read_rope(config, kind="full_attention", theta=1e6)
    local = read_rope(config, kind="sliding_attention", theta=1e4)
    spec = replace(spec, qk_norm=True, layers=tuple(replace(layer, rope=everywhere) for layer in spec.layers))
    logit_cap = config.optional_number("final_logit_softcapping")
    return replace(_with_windows(spec, config, kinds, local), logit_cap=logit_cap)


def _gpt2(config: Fields) -> DecoderSpec:
    for name in ("add_cross_attention", "is_encoder_decoder"):
        if config.flag(name, False):
            raise UnsupportedModel(f"config.json: {name} is true; native gpt2 is a decoder alone")
    hidden, heads = config.integer("n_embd", WIDTH), config.integer("n_head", HEADS)
    if hidden % heads:
        raise config.wrong("n_head", f"a divisor of n_embd ({hidden})")
    scale = (hidden // heads) ** -0.5 if config.flag("scale_attn_weights", True) else 1.0
    by_depth = config.flag("scale_attn_by_inverse_layer_idx", False)
    depth = config.integer("n_layer", LAYERS)
    scales = [scale / (i + 1) if by_depth else scale for i in range(depth)]
    return DecoderSpec(
        vocab=config.integer("vocab_size", VOCAB),
        hidden=hidden,
        intermediate=config.integer("n_inner", WIDTH, min(4 * hidden, int(WIDTH.most))),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        layers=tuple(LayerSpec(window=None, rope=None, score_scale=s) for s in scales),
        learned_positions=config.integer("n_positions", POSITIONS, 1024),
        embedding_scale=1.0,
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        qk_norm=False,
        post_norms=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        activation=read_activation(config, "activation_function", "gelu_new"),
        score_cap=None,
        logit_cap=None,
        tied=config.flag("tie_word_embeddings", True),
    )


def _max_positions(default: int) -> Callable[[Fields], int]:
    return lambda config: stretched_tokens(config, config.integer("max_position_embeddings", POSITIONS, default))


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _llama, LLAMA, _max_positions(2048)),
    "mistral": Family("MistralForCausalLM", _mistral, LLAMA, _max_positions(131072)),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, LLAMA, _max_positions(32768)),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, LLAMA, _max_positions(32768)),
    "gemma2": Family("Gemma2ForCausalLM", _gemma2, GEMMA, _max_positions(8192)),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, GEMMA, _max_positions(131072)),
    "gpt2": Family("GPT2LMHeadModel", _gpt2, GPT2, lambda config: config.integer("n_positions", POSITIONS, 1024)),
}


def find_family(config: Fields) -> Family:
    """The native family of a config. Raises UnsupportedModel when there is none, or for another head than text."""
    kind = config.text("model_type", "")
    if not kind:
        raise ModelFormatError("config.json: model_type is missing; it says what kind of model this is")
    family = FAMILIES.get(kind)
    architectures = config.names("architectures")
    if family is None or (architectures and family.architecture not in architectures):
        named = ", ".join(architectures) or "no architecture"
        raise UnsupportedModel(f"config.json: model_type {kind!r} with {named} is not native")
    return family
