"""From files to a loaded model. Reads config.json as data, checks everything, allocates last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kelm.errors import UnsupportedModel
from kelm.models.blueprint import Files, known_dtype, read_blueprint, read_config
from kelm.models.decoder import LoadedDecoder
from kelm.models.encoder import LoadedEncoder
from kelm.models.encoder_families import ENCODER_FAMILIES, EncoderFamily, read_labels
from kelm.models.encoder_layout import encoder_slots
from kelm.models.fields import Fields
from kelm.models.info import ModelInfo
from kelm.models.layout import Slot, aliases
from kelm.models.part import Part
from kelm.models.quantization import FIELD, read_quantization
from kelm.models.sentence import mask_token, read_sentence
from kelm.models.spec import DecoderSpec
from kelm.models.weights import DTYPES, Checkpoint, Progress, parameters, weight_bytes
from kelm.ops.quantized import Weight

Model = LoadedDecoder | LoadedEncoder


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint's files ask for, before a tensor is read."""

    checkpoint: Checkpoint
    wanted: Mapping[str, Slot]
    unused: tuple[str, ...]
    """Ends of names of tensors that may be there and hold nothing of the model."""
    aliases: Mapping[str, str]
    """What other classes of the same model call its tensors -> what this checkpoint does."""
    make: Callable[[Mapping[str, Weight], torch.dtype], Model]

    def check(self, dtype: str) -> torch.dtype:
        """Every check that reads no tensor. The precision: ``dtype``, or for auto that of the first slot. Raises
        ModelFormatError."""
        self.checkpoint.check(self.wanted, self.unused)
        first = next(iter(self.wanted.values())).names[0]
        return self.checkpoint.dtype(first) if dtype == "auto" else DTYPES[dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderPlan(Plan):
    """One whose layers may be read by themselves."""

    spec: DecoderSpec
    slots_of: Callable[[Part | None], Mapping[str, Slot]]
    make_part: Callable[[Mapping[str, Weight], torch.dtype, Part | None], LoadedDecoder]


@dataclass(frozen=True, slots=True)
class Outline:
    """A checked decoder whose weights have not been read."""

    plan: DecoderPlan
    dtype: torch.dtype

    @property
    def spec(self) -> DecoderSpec:
        return self.plan.spec

    def weight_bytes(self, part: Part | None = None) -> int:
        """What ``part`` takes in memory; None: the whole model."""
        return self.plan.checkpoint.size_bytes(self.plan.slots_of(part), self.dtype)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return parameters(self.plan.wanted)


def load(files: Files, dtype: str = "auto", progress: Progress | None = None) -> Model:
    """The model in ``files``, in ``dtype`` (auto, float32, bfloat16, float16).

    Raises UnsupportedModel when no native family can run it, ModelFormatError when a file is malformed.
    """
    known_dtype(dtype)
    found = plan(files)
    kind = found.check(dtype)
    return found.make(found.checkpoint.read(found.wanted, kind, progress), kind)


def load_part(files: Files, dtype: str, part: Part, progress: Progress | None = None) -> LoadedDecoder:
    """As ``load``, of a decoder's layers ``part`` alone: the whole is checked, and no other weight is read."""
    found = outline(files, dtype)
    weights = found.plan.checkpoint.read(found.plan.slots_of(part), found.dtype, progress)
    return found.plan.make_part(weights, found.dtype, part)


def outline(files: Files, dtype: str = "auto") -> Outline:
    """What kind of decoder the files hold, and how large its parts are. Raises as ``load``, for encoders too."""
    known_dtype(dtype)
    found = plan(files)
    if not isinstance(found, DecoderPlan):
        raise UnsupportedModel("this is an encoder; decoders can be split by layers")
    return Outline(found, found.check(dtype))


def plan(files: Files) -> Plan:
    """Reads config.json and the weights' headers. Raises as ``load``."""
    config = read_config(files)
    quantization = read_quantization(config)
    encoder = ENCODER_FAMILIES.get(config.text("model_type", ""))
    if encoder is None:
        return _decoder(files)
    if quantization is not None:
        raise UnsupportedModel(f"config.json: {FIELD} is set; native encoders read float weights")
    return _encoder(encoder, config, files)


def _decoder(files: Files) -> Plan:
    found = read_blueprint(files, lambda files, quantization: Checkpoint(files, quantization=quantization))

    def make(weights: Mapping[str, Weight], kind: torch.dtype, part: Part | None = None) -> LoadedDecoder:
        info = found.info(str(kind).removeprefix("torch."), weight_bytes(weights.values()))
        return LoadedDecoder(found.spec, weights, info, part)

    wanted = found.slots()
    return DecoderPlan(
        checkpoint=found.index,
        wanted=wanted,
        unused=found.unused,
        aliases=found.aliases,
        make=make,
        spec=found.spec,
        slots_of=found.slots,
        make_part=make,
    )


def _encoder(family: EncoderFamily, config: Fields, files: Files) -> Plan:
    sentence = read_sentence(files)
    spec, architecture = family.describe(config, sentence)
    layout, checkpoint = family.layout, Checkpoint(files, family.layout.renamed)
    prefix = checkpoint.prefix((layout.prefix, ""), f"{layout.words}.weight")
    wanted = encoder_slots(spec, layout, prefix)
    mask_id = mask_token(files) if spec.head == "fill_mask" else None
    without_head = spec.head == "none" or (spec.head == "fill_mask" and mask_id is None)
    labels = read_labels(config) if spec.labels else ()

    def make(read: Mapping[str, Weight], kind: torch.dtype) -> LoadedEncoder:
        weights = {name: weight for name, weight in read.items() if isinstance(weight, Tensor)}
        info = ModelInfo(
            kind="encoder",
            architecture=architecture,
            dtype=str(kind).removeprefix("torch."),
            parameters=parameters(wanted),
            weight_bytes=weight_bytes(weights.values()),
            max_context_tokens=min(spec.max_tokens, sentence.max_tokens or spec.max_tokens),
            vocab=spec.vocab,
            hidden=spec.hidden,
            tasks=("embed",) if without_head else ("embed", spec.head),
            labels=labels,
        )
        return LoadedEncoder(spec, weights, info, mask_id)

    others = (encoder_slots(spec, layout, other) for other in ("", layout.prefix))
    return Plan(checkpoint, wanted, layout.unused(spec), aliases(wanted, others), make)
