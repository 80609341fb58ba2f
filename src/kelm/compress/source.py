"""The model to compress: a decoder of a native family, opened as files and names of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelm.errors import UnsupportedModel
from kelm.models.encoder_families import ENCODER_FAMILIES
from kelm.models.families import Family, find_family
from kelm.models.fields import Fields, read_json
from kelm.models.layout import Slot, slots
from kelm.models.quantization import Quantization, read_quantization
from kelm.models.spec import DecoderSpec
from kelm.models.weights import Checkpoint
from kelm.store import Manifest, Store

_PRECISIONS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Source:
    """``prefix``: before every tensor's name; ``slots``: layout.py's, with the names that the files use."""

    manifest: Manifest
    files: Mapping[str, str]
    config: dict[str, Any]
    family: Family
    spec: DecoderSpec
    checkpoint: Checkpoint
    prefix: str
    slots: Mapping[str, Slot]
    quantization: Quantization | None

    @property
    def depth(self) -> int:
        return len(self.spec.layers)

    @property
    def precision(self) -> str:
        """Of its linears, as people call it."""
        if self.quantization is not None:
            return self.quantization.label
        return _PRECISIONS[self.checkpoint.entries[self.slots["embed.weight"].names[0]].dtype]

    def layer_of(self, tensor: str) -> int | None:
        """The number of the layer that a tensor belongs to."""
        before, after = (self.prefix + self.family.layout.layer).split("{}")
        number = tensor.removeprefix(before).partition(after)[0] if tensor.startswith(before) else ""
        return int(number) if number.isdecimal() else None


def open_source(store: Store, manifest: Manifest) -> Source:
    """Raises UnsupportedModel for what is no native decoder, ModelFormatError when its files are malformed."""
    files = store.paths(manifest)
    fields = read_json(files["config.json"], "config.json")
    kind = fields.text("model_type", "")
    if kind in ENCODER_FAMILIES:
        raise UnsupportedModel(f"{manifest.name} is an encoder ({kind}); kelm compress takes decoders")
    family = find_family(fields)
    spec, layout = family.read(fields), family.layout
    quantization = read_quantization(fields)
    checkpoint = Checkpoint(files, quantization=quantization)
    prefix = checkpoint.prefix(layout.prefixes, f"{layout.embed}.weight")
    wanted = slots(spec, layout, prefix)
    checkpoint.check(wanted, layout.ignored + ((f"{layout.head}.weight",) if spec.tied else ()))
    config = json.loads(Path(files["config.json"]).read_bytes())
    return Source(manifest, files, config, family, spec, checkpoint, prefix, wanted, quantization)


def read_spec(family: Family, config: Mapping[str, Any]) -> DecoderSpec:
    return family.read(Fields(config))
