"""The encoder families that run natively: config.json -> EncoderSpec and EncoderLayout, one entry a ``model_type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kelm.errors import UnsupportedModel
from kelm.limits import HEADS, LABELS, LAYERS, POSITIONS, VOCAB, WIDTH
from kelm.models.encoder_layout import EncoderLayout, HeadLayout
from kelm.models.encoder_spec import EncoderSpec, Head, Output
from kelm.models.families import read_activation
from kelm.models.fields import Fields
from kelm.models.sentence import Sentence
from kelm.ops.activation import Activation


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """``name``: what its classes start with, BertModel, BertForMaskedLM, ..."""

    name: str
    read: Callable[[Fields], EncoderSpec]
    """The encoder alone."""
    layout: EncoderLayout
    head_activations: Mapping[Head, Activation | None]
    """None here means the head has no dense layer; a head that is absent uses the encoder's own activation."""

    def describe(self, config: Fields, sentence: Sentence) -> tuple[EncoderSpec, str]:
        """The whole spec, and the architecture's name. Raises UnsupportedModel for a head that isn't native."""
        spec = replace(self.read(config), pooling=sentence.pooling)
        architecture = (config.names("architectures") or [f"{self.name}Model"])[0]
        head = _HEADS.get(architecture.removeprefix(self.name))
        if head is None or not architecture.startswith(self.name):
            raise UnsupportedModel(f"config.json: {architecture} has no native head; it may be {self._known()}")
        if head == "none":
            return spec, architecture
        spec = replace(spec, head=head, head_activation=self.head_activations.get(head, spec.activation))
        if head == "fill_mask":
            return replace(spec, tied=config.flag("tie_word_embeddings", True)), architecture
        labels = len(read_labels(config))
        output: Output = _output(config, labels) if head == "classify" else "softmax"
        return replace(spec, labels=labels, output=output), architecture

    def _known(self) -> str:
        return ", ".join(self.name + end for end in _HEADS)


_HEADS: dict[str, Head] = {
    "Model": "none",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "token_classify",
    "ForMaskedLM": "fill_mask",
    "ForPreTraining": "fill_mask",
}
_OUTPUTS: dict[str, Output] = {
    "regression": "identity",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}


def read_labels(config: Fields) -> tuple[str, ...]:
    """A classifier's labels by column: ``id2label``, else LABEL_0, LABEL_1, ... for ``num_labels`` (default 2)."""
    named = config.table("id2label")
    if not named:
        return tuple(f"LABEL_{i}" for i in range(config.integer("num_labels", LABELS, 2)))
    count = len(list(named))
    if count > LABELS.most or {str(i) for i in range(count)} != set(named):
        raise config.wrong("id2label", f"an object with the keys 0 to {count - 1}")
    return tuple(named.text(str(i)) for i in range(count))


def _output(config: Fields, labels: int) -> Output:
    if "problem_type" not in config:
        return "sigmoid" if labels == 1 else "softmax"
    kind = config.text("problem_type")
    if kind not in _OUTPUTS:
        raise config.wrong("problem_type", f"one of {', '.join(_OUTPUTS)}")
    return _OUTPUTS[kind]


def _encoder(config: Fields, sizes: Mapping[str, str]) -> EncoderSpec:
    """``sizes``: what this family calls hidden_size, ..."""
    if config.flag("is_decoder", False):
        raise UnsupportedModel("config.json: is_decoder is true; native encoders see both ways")
    if config.text("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModel("config.json: position_embedding_type is not absolute")
    hidden = config.integer(sizes["hidden"], WIDTH)
    heads = config.integer(sizes["heads"], HEADS)
    if hidden % heads:
        raise config.wrong(sizes["heads"], f"a divisor of {sizes['hidden']} ({hidden})")
    return EncoderSpec(
        vocab=config.integer("vocab_size", VOCAB),
        hidden=hidden,
        intermediate=config.integer(sizes["intermediate"], WIDTH),
        heads=heads,
        layers=config.integer(sizes["layers"], LAYERS),
        positions=config.integer("max_position_embeddings", POSITIONS, 512),
        position_padding=None,
        token_types=0,
        norm_eps=1e-12,
        activation=read_activation(config, sizes["activation"], "gelu"),
        pooling="mean",
        head="none",
        labels=0,
        head_activation=None,
        output="softmax",
        tied=False,
    )


_BERT_SIZES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "activation": "hidden_act",
}
_DISTILBERT_SIZES = {
    "hidden": "dim",
    "heads": "n_heads",
    "intermediate": "hidden_dim",
    "layers": "n_layers",
    "activation": "activation",
}


def _bert(config: Fields) -> EncoderSpec:
    types = config.integer("type_vocab_size", LABELS, 2)
    return replace(_encoder(config, _BERT_SIZES), token_types=types, norm_eps=config.number("layer_norm_eps", 1e-12))


def _roberta(config: Fields) -> EncoderSpec:
    spec = _bert(config)
    padding = config.integer("pad_token_id", replace(VOCAB, least=0), 1)
    if spec.positions < padding + 2:
        raise config.wrong("max_position_embeddings", f"at least pad_token_id + 2 ({padding + 2})")
    return replace(spec, position_padding=padding)


def _distilbert(config: Fields) -> EncoderSpec:
    return _encoder(config, _DISTILBERT_SIZES)


_BERT = EncoderLayout(
    prefix="bert.",
    heads={
        "classify": HeadLayout(dense="*pooler.dense", last="classifier"),
        "token_classify": HeadLayout(last="classifier"),
        "fill_mask": HeadLayout(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.LayerNorm",
            last="cls.predictions.decoder",
            tied_bias="cls.predictions.bias",
            ignored=(
                "cls.seq_relationship.weight",
                "cls.seq_relationship.bias",
                "cls.predictions.bias",
                "cls.predictions.decoder.bias",
            ),
        ),
    },
)
_ROBERTA = replace(
    _BERT,
    prefix="roberta.",
    heads={
        "classify": HeadLayout(dense="classifier.dense", last="classifier.out_proj"),
        "token_classify": HeadLayout(last="classifier"),
        "fill_mask": HeadLayout(
            dense="lm_head.dense",
            norm="lm_head.layer_norm",
            last="lm_head.decoder",
            tied_bias="lm_head.bias",
            ignored=("lm_head.bias", "lm_head.decoder.bias"),
        ),
    },
)
_DISTILBERT = EncoderLayout(
    prefix="distilbert.",
    layer="transformer.layer.{}.",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    mlp_norm="output_layer_norm",
    heads={
        "classify": HeadLayout(dense="pre_classifier", last="classifier"),
        "token_classify": HeadLayout(last="classifier"),
        "fill_mask": HeadLayout(
            dense="vocab_transform",
            norm="vocab_layer_norm",
            last="vocab_projector",
            tied_bias="vocab_projector.bias",
        ),
    },
)
_ROBERTA_ACTIVATIONS: dict[Head, Activation | None] = {"classify": "tanh", "token_classify": None, "fill_mask": "gelu"}

ENCODER_FAMILIES: dict[str, EncoderFamily] = {
    "bert": EncoderFamily("Bert", _bert, _BERT, {"classify": "tanh", "token_classify": None}),
    "roberta": EncoderFamily("Roberta", _roberta, _ROBERTA, _ROBERTA_ACTIVATIONS),
    "xlm-roberta": EncoderFamily("XLMRoberta", _roberta, _ROBERTA, _ROBERTA_ACTIVATIONS),
    "distilbert": EncoderFamily("DistilBert", _distilbert, _DISTILBERT, {"classify": "relu", "token_classify": None}),
}
