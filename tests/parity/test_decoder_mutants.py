"""Every field of the decoder's spec matters, and parity would notice: one mutant of each must fail it.

Parametrised over the dataclasses' fields, so a new field without a family config that shows it turns this red.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from decoder_configs import CONFIGS, build
from parity_kit import Arena, save, scratch, step

from kelm.errors import KelmError
from kelm.models.families import FAMILIES
from kelm.models.loader import load
from kelm.models.spec import DecoderSpec, LayerSpec, Norm
from kelm.ops.activation import Activation
from kelm.ops.rotation import LinearScaling, Llama3Scaling, Rope, YarnScaling

IDS = torch.randint(97, (1, 120), generator=torch.Generator().manual_seed(3))
LITERALS = {"norm": get_args(Norm), "activation": get_args(Activation)}


@cache
def reference(family: str, seed: int) -> tuple[dict[str, str], np.ndarray]:
    model = build(family, seed)
    with torch.no_grad():
        return save(model, scratch()), model(IDS).logits[0].numpy()


def changed(name: str, value: object) -> object:
    """Another value of the same kind."""
    if name in LITERALS:
        others = [v for v in LITERALS[name] if v != value]
        return others[0]
    match value:
        case bool():
            return not value
        case int():
            return value + max(1, value // 2)
        case float():
            return value * (100 if name == "norm_eps" else 2)
        case None:
            return {"window": 9, "rope": Rope(10_000.0), "scaling": LinearScaling(2.0)}.get(name, 5.0)
        case tuple():
            return value[:-1]
        case Rope() | LinearScaling() | Llama3Scaling() | YarnScaling():
            return None
    raise AssertionError(f"no mutant for {name} = {value!r}: say here how to change it")


def mutate(item: object, name: str) -> object:
    return dataclasses.replace(item, **{name: changed(name, getattr(item, name))})


def in_layers(change: Callable[[LayerSpec], LayerSpec]) -> Callable[[DecoderSpec], DecoderSpec]:
    return lambda spec: dataclasses.replace(spec, layers=tuple(change(layer) for layer in spec.layers))


def in_ropes(kind: type, name: str) -> Callable[[LayerSpec], LayerSpec]:
    """Mutate ``name`` of each layer's Rope (or of its scaling, when it is a ``kind``)."""

    def change(layer: LayerSpec) -> LayerSpec:
        rope = layer.rope
        if rope is None:
            return layer
        if kind is Rope:
            return dataclasses.replace(layer, rope=mutate(rope, name))
        if not isinstance(rope.scaling, kind):
            return layer
        return dataclasses.replace(layer, rope=dataclasses.replace(rope, scaling=mutate(rope.scaling, name)))

    return change


def caught(family: str, seed: int, change: Callable[[DecoderSpec], DecoderSpec], monkeypatch) -> bool:
    """Whether the mutant is refused at load or fails parity."""
    files, wanted = reference(family, seed)
    original = FAMILIES[family]
    mutant = dataclasses.replace(original, read=lambda config: change(original.read(config)))
    with monkeypatch.context() as patch:
        patch.setitem(FAMILIES, family, mutant)
        try:
            decoder = load(files, "float32")
        except (KelmError, ValueError):  # ValueError: the layout has other parts than the spec asks for
            return True
    arena = Arena(decoder.groups, 150)
    decoder.attach(arena.kv)
    got = step(decoder, arena, {0: (IDS[0].tolist(), 0)})
    return bool(np.abs(got - wanted).max() > 1e-4 * wanted.std())


def somewhere(change: Callable[[DecoderSpec], DecoderSpec], monkeypatch) -> bool:
    return any(caught(family, seed, change, monkeypatch) for seed in range(4) for family in CONFIGS)


def names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


@pytest.mark.parametrize("family", CONFIGS)
def test_no_mutation_passes(family, monkeypatch):
    """Guards the guard: what is caught below is the mutation."""
    assert not caught(family, 0, lambda spec: spec, monkeypatch)


@pytest.mark.parametrize("name", names(DecoderSpec))
def test_spec_field(name, monkeypatch):
    assert somewhere(lambda spec: mutate(spec, name), monkeypatch)


@pytest.mark.parametrize("name", names(LayerSpec))
def test_layer_field(name, monkeypatch):
    assert somewhere(in_layers(lambda layer: mutate(layer, name)), monkeypatch)


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in (Rope, LinearScaling, Llama3Scaling, YarnScaling) for n in names(k)]
)
def test_rope_field(kind, name, monkeypatch):
    assert somewhere(in_layers(in_ropes(kind, name)), monkeypatch)
