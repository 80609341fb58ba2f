"""A decoder without some of its layers: which ones go, and what config.json says of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kelm.compress.request import DEPTH_FIELDS
from kelm.compress.source import Source, read_spec
from kelm.errors import UnsupportedModel


def least_influential(influence: Sequence[float], count: int) -> tuple[int, ...]:
    """The ``count`` layers that change the least, never the first or the last; of equal ones the later goes."""
    inner = range(1, len(influence) - 1)
    return tuple(sorted(sorted(inner, key=lambda number: (influence[number], -number))[:count]))


def config_of(source: Source, kept: Sequence[int]) -> dict[str, Any]:
    """config.json with only the layers ``kept``, each computing what it did.

    Raises UnsupportedModel where the config can't say that: a layer's place decides what it computes.
    """
    if len(kept) == source.depth:
        return dict(source.config)
    config = {name: _thinned(name, value, source.depth, kept) for name, value in source.config.items()}
    config |= {field: len(kept) for field in DEPTH_FIELDS if field in config}
    windows = [layer.window for layer in source.spec.layers]
    if len(set(windows)) > 1:  # by default a layer's place decides its window
        kinds = ["full_attention" if windows[n] is None else "sliding_attention" for n in kept]
        config["layer_types"] = kinds
        if "max_window_layers" in config:
            config["max_window_layers"] = kinds.count("full_attention")
    if read_spec(source.family, config).layers != tuple(source.spec.layers[number] for number in kept):
        raise UnsupportedModel(
            f"{source.manifest.name}: what its layers compute depends on their place, which config.json can't keep "
            "when some are removed"
        )
    return config


def _thinned(name: str, value: Any, depth: int, kept: Sequence[int]) -> Any:
    """A list with one entry for each layer loses those of layers that go."""
    if "layer" in name and isinstance(value, list) and len(value) == depth:
        return [value[number] for number in kept]
    return value
