"""From files to a loaded model. Reads config.json as data, checks everything, allocates last."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.limits import VOCAB
from kelm.models.decoder import LoadedDecoder
from kelm.models.families import find_family
from kelm.models.fields import Fields, read_json
from kelm.models.info import ModelInfo
from kelm.models.layout import slots
from kelm.models.weights import DTYPES, Checkpoint, Progress, parameters, weight_bytes


def load(files: Mapping[str, str], dtype: str = "auto", progress: Progress | None = None) -> LoadedDecoder:
    """The model in ``files`` (name in the checkpoint -> path), in ``dtype`` (auto, float32, bfloat16, float16).

    Raises UnsupportedModel when no native family can run it, ModelFormatError when a file is malformed.
    """
    if "config.json" not in files:
        raise ModelFormatError("config.json is missing; it says what kind of model this is")
    config = read_json(files["config.json"], "config.json")
    return _load_decoder(config, files, dtype, progress)


def _load_decoder(config: Fields, files: Mapping[str, str], dtype: str, progress: Progress | None) -> LoadedDecoder:
    family = find_family(config)
    spec = family.read(config)
    checkpoint = Checkpoint(files)
    embed = f"{family.layout.embed}.weight"
    prefix = checkpoint.prefix(family.layout.prefixes, embed)
    wanted = slots(spec, family.layout, prefix)
    unused = (*family.layout.ignored, *((f"{family.layout.head}.weight",) if spec.tied else ()))
    checkpoint.check(wanted, unused)
    kind = pick_dtype(dtype, checkpoint, prefix + embed)
    weights = checkpoint.read(wanted, kind, progress)
    info = ModelInfo(
        kind="decoder",
        architecture=family.architecture,
        dtype=str(kind).removeprefix("torch."),
        parameters=parameters(wanted),
        weight_bytes=weight_bytes(weights.values()),
        max_context_tokens=family.context(config),
        vocab=spec.vocab,
        hidden=spec.hidden,
        tasks=("generate",),
        eos_ids=_eos_ids(config, files),
    )
    return LoadedDecoder(spec, weights, info)


def pick_dtype(dtype: str, checkpoint: Checkpoint, tensor: str) -> torch.dtype:
    """The precision that ``dtype`` names; auto: that of ``tensor`` in the checkpoint."""
    if dtype == "auto":
        return checkpoint.dtype(tensor)
    if dtype not in DTYPES:
        raise UnsupportedModel(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]


def _eos_ids(config: Fields, files: Mapping[str, str]) -> tuple[int, ...]:
    name = "generation_config.json"
    for fields in ([read_json(files[name], name)] if name in files else []) + [config]:
        value = fields.raw("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if value is not None:
            return tuple(_token_id(fields, i) for i in ids)
    return ()


def _token_id(fields: Fields, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < VOCAB.most:
        raise fields.wrong("eos_token_id", "a token id or a list of them")
    return value
