"""From files to a loaded model. Reads config.json as data, checks everything, allocates last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.limits import VOCAB
from kelm.models.decoder import LoadedDecoder
from kelm.models.encoder import LoadedEncoder
from kelm.models.encoder_families import ENCODER_FAMILIES, EncoderFamily, read_labels
from kelm.models.encoder_layout import encoder_slots
from kelm.models.families import find_family
from kelm.models.fields import Fields, read_json
from kelm.models.info import ModelInfo
from kelm.models.layout import Slot, slots
from kelm.models.part import Part
from kelm.models.quantization import FIELD, Quantization, read_quantization
from kelm.models.sentence import mask_token, read_sentence
from kelm.models.spec import DecoderSpec
from kelm.models.weights import DTYPES, Checkpoint, Progress, parameters, weight_bytes
from kelm.ops.quantized import Weight

Files = Mapping[str, str]
"""Name in the checkpoint ('config.json') -> path."""


def load(files: Files, dtype: str = "auto", progress: Progress | None = None) -> LoadedDecoder | LoadedEncoder:
    """The model in ``files``, in ``dtype`` (auto, float32, bfloat16, float16).

    Raises UnsupportedModel when no native family can run it, ModelFormatError when a file is malformed.
    """
    config = _config(files, dtype)
    read = _Weights(files, dtype, progress)
    quantization = read_quantization(config)
    encoder = ENCODER_FAMILIES.get(config.text("model_type", ""))
    if encoder is None:
        return _decoder(config, read, quantization)
    if quantization is not None:
        raise UnsupportedModel(f"config.json: {FIELD} is set; native encoders read float weights")
    return _encoder(encoder, config, read)


def load_part(files: Files, dtype: str, part: Part, progress: Progress | None = None) -> LoadedDecoder:
    """As ``load``, of a decoder's layers ``part`` alone: the whole is checked, and no other weight is read."""
    config = _config(files, dtype)
    return _decoder(config, _Weights(files, dtype, progress), read_quantization(config), part)


def _config(files: Files, dtype: str) -> Fields:
    if dtype != "auto" and dtype not in DTYPES:
        raise UnsupportedModel(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if "config.json" not in files:
        raise ModelFormatError("config.json is missing; it says what kind of model this is")
    return read_json(files["config.json"], "config.json")


class _Weights:
    """Reads a checkpoint's tensors once it is known which."""

    def __init__(self, files: Files, dtype: str, progress: Progress | None) -> None:
        self.files = files
        self._dtype, self._progress = dtype, progress
        self.dtype = torch.float32

    def check(self, checkpoint: Checkpoint, wanted: Mapping[str, Slot], unused: tuple[str, ...]) -> None:
        """Every check; the precision is that of the first of ``wanted``, when it is the checkpoint's own."""
        checkpoint.check(wanted, unused)
        first = next(iter(wanted.values())).names[0]
        self.dtype = checkpoint.dtype(first) if self._dtype == "auto" else DTYPES[self._dtype]

    def read(self, checkpoint: Checkpoint, wanted: Mapping[str, Slot]) -> dict[str, Weight]:
        """``wanted``, after ``check``."""
        return checkpoint.read(wanted, self.dtype, self._progress)


@dataclass(frozen=True, slots=True)
class Outline:
    """A decoder whose weights have not been read."""

    spec: DecoderSpec
    dtype: torch.dtype
    _checkpoint: Checkpoint
    _slots: Callable[[Part | None], dict[str, Slot]]

    def weight_bytes(self, part: Part | None = None) -> int:
        """What ``part`` takes in memory; None: the whole model."""
        return self._checkpoint.size_bytes(self._slots(part), self.dtype)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return parameters(self._slots(None))

    def read(self, read: _Weights, part: Part | None) -> dict[str, Weight]:
        return read.read(self._checkpoint, self._slots(part))


def outline(files: Files, dtype: str = "auto") -> Outline:
    """What kind of decoder the files hold, and how large its parts are; all checked. Raises as ``load``, for encoders
    too."""
    config = _config(files, dtype)
    return _outline(config, _Weights(files, dtype, None), read_quantization(config))


def _outline(config: Fields, read: _Weights, quantization: Quantization | None) -> Outline:
    family = find_family(config)
    spec, layout = family.read(config), family.layout
    checkpoint = Checkpoint(read.files, quantization=quantization)
    prefix = checkpoint.prefix(layout.prefixes, f"{layout.embed}.weight")
    read.check(
        checkpoint,
        slots(spec, layout, prefix),
        layout.ignored + ((f"{layout.head}.weight",) if spec.tied else ()),
    )
    return Outline(spec, read.dtype, checkpoint, lambda part: slots(spec, layout, prefix, part))


def _decoder(
    config: Fields, read: _Weights, quantization: Quantization | None, part: Part | None = None
) -> LoadedDecoder:
    family, found = find_family(config), _outline(config, read, quantization)
    spec, weights = found.spec, found.read(read, part)
    info = ModelInfo(
        kind="decoder",
        architecture=family.architecture,
        dtype=quantization.label if quantization is not None else str(read.dtype).removeprefix("torch."),
        parameters=found.parameters,
        weight_bytes=weight_bytes(weights.values()),
        max_context_tokens=family.context(config),
        vocab=spec.vocab,
        hidden=spec.hidden,
        tasks=("generate",),
        eos_ids=_eos_ids(config, read.files),
    )
    return LoadedDecoder(spec, weights, info, part)


def _encoder(family: EncoderFamily, config: Fields, read: _Weights) -> LoadedEncoder:
    sentence = read_sentence(read.files)
    spec, architecture = family.describe(config, sentence)
    layout, checkpoint = family.layout, Checkpoint(read.files, family.layout.renamed)
    prefix = checkpoint.prefix((layout.prefix, ""), f"{layout.words}.weight")
    wanted = encoder_slots(spec, layout, prefix)
    read.check(checkpoint, wanted, layout.unused(spec))
    read_weights = read.read(checkpoint, wanted)
    weights = {name: weight for name, weight in read_weights.items() if isinstance(weight, Tensor)}
    mask_id = mask_token(read.files) if spec.head == "fill_mask" else None
    without_head = spec.head == "none" or (spec.head == "fill_mask" and mask_id is None)
    info = ModelInfo(
        kind="encoder",
        architecture=architecture,
        dtype=str(read.dtype).removeprefix("torch."),
        parameters=parameters(wanted),
        weight_bytes=weight_bytes(weights.values()),
        max_context_tokens=min(spec.max_tokens, sentence.max_tokens or spec.max_tokens),
        vocab=spec.vocab,
        hidden=spec.hidden,
        tasks=("embed",) if without_head else ("embed", spec.head),
        labels=read_labels(config) if spec.labels else (),
    )
    return LoadedEncoder(spec, weights, info, mask_id)


def _eos_ids(config: Fields, files: Files) -> tuple[int, ...]:
    name = "generation_config.json"
    for fields in ([read_json(files[name], name)] if name in files else []) + [config]:
        value = fields.raw("eos_token_id")
        if value is not None:
            return tuple(_token_id(fields, i) for i in (value if isinstance(value, list) else [value]))
    return ()


def _token_id(fields: Fields, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < VOCAB.most:
        raise fields.wrong("eos_token_id", "a token id or a list of them")
    return value
