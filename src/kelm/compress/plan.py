"""What is done to a source: which layers stay, and how its linears are rounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kelm.compress.layers import config_of
from kelm.compress.source import Source
from kelm.errors import InvalidRequest, UnsupportedModel
from kelm.models.quantization import FIELD, METHOD, PACKED, Quantization

HEAD = "head.weight"


@dataclass(frozen=True, slots=True)
class Plan:
    """``kept``: layers that stay, by their old numbers. ``head``: an untied output head is rounded too."""

    source: Source
    kept: tuple[int, ...]
    quantization: Quantization | None
    head: bool

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(sorted(set(range(self.source.depth)) - set(self.kept)))

    @property
    def method(self) -> str:
        """In words."""
        steps = []
        if self.removed:
            steps.append(f"layers {', '.join(map(str, self.removed))} removed")
        if self.quantization is not None:
            steps.append(f"{self.quantization.label} by rounding to nearest" + (", head too" if self.head else ""))
        return "; ".join(steps)

    def linears(self) -> Iterator[tuple[str, int]]:
        """Names of the weights that are rounded, and how many inputs each has."""
        for slot_name, slot in self.source.slots.items() if self.quantization is not None else ():
            if slot.linear and (self.head or slot_name != HEAD):
                yield from ((name, shape[1]) for name, shape in zip(slot.names, slot.shapes, strict=True))

    def new_name(self, tensor: str) -> str | None:
        """What a tensor is called in the result; None for one of a layer that goes."""
        layer = self.source.layer_of(tensor)
        if layer is None:
            return tensor
        if layer not in self.kept:
            return None
        pattern = self.source.prefix + self.source.family.layout.layer
        return pattern.format(self.kept.index(layer)) + tensor.removeprefix(pattern.format(layer))

    def check(self) -> None:
        """Raise what would come up in the middle of the work: UnsupportedModel, InvalidRequest."""
        name = self.source.manifest.name
        if self.quantization is None:
            return
        if self.source.family.layout.transposed:
            raise UnsupportedModel(
                f"{name} keeps its linears as [in, out], which {METHOD} doesn't know; --drop-layers works"
            )
        if self.head and self.source.spec.tied:
            raise InvalidRequest(f"--head: {name} makes its logits with the embedding, which stays as it is")
        for linear, columns in self.linears():
            _check_group(self.quantization.group, linear, columns)

    def config(self) -> dict[str, Any]:
        """The result's config.json."""
        config = config_of(self.source, self.kept)
        if self.quantization is not None:
            config[FIELD] = _quantization_config(self.quantization, [] if self.head else ["lm_head"])
        return config


def _check_group(group: int | None, name: str, columns: int) -> None:
    if group is not None and columns % group:
        fit = next((size for size in (128, 64, 32) if columns % size == 0), None)
        advice = "--bits 8 needs no groups" if fit is None else f"try --group {fit}"
        raise InvalidRequest(f"--group {group} does not divide the {columns} inputs of {name}; {advice}")


def _quantization_config(quantization: Quantization, ignored: list[str]) -> dict[str, Any]:
    """What vLLM and transformers look for."""
    weights = {
        "num_bits": quantization.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if quantization.group is None else "group",
        "group_size": quantization.group,
        "dynamic": False,
        "observer": "minmax",
    }
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": PACKED,
    }
    return {
        "quant_method": METHOD,
        "format": PACKED,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
