"""Every field of the encoder's spec matters, and parity would notice (test_decoder_mutants.py for decoders)."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import get_args

import numpy as np
import pytest
from encoder_configs import CONFIGS, HEADS, build, save, texts
from parity_kit import scratch
from test_encoder_parity import encode, head_task, reference, types_for, wanted_of

from kelm.errors import KelmError
from kelm.models.encoder_families import ENCODER_FAMILIES, EncoderFamily
from kelm.models.encoder_spec import EncoderSpec, Head, Output, Pooling
from kelm.models.loader import load
from kelm.ops.activation import Activation

LITERALS = {"activation": Activation, "head_activation": Activation, "pooling": Pooling, "output": Output, "head": Head}
CASES = [(family, head, seed) for seed in range(2) for family in CONFIGS for head in HEADS]


@cache
def made(family: str, head: str, seed: int) -> tuple:
    """(files, inputs, types, transformers' results)"""
    model = build(family, head, seed)
    inputs = texts(model, 8, (3, 40, 90))
    types = types_for(model, inputs)
    wanted = wanted_of(head, reference(model, inputs, types), inputs)
    return save(model, scratch()), inputs, types, wanted


def changed(name: str, value: object) -> object:
    if name in LITERALS:
        return next(v for v in get_args(LITERALS[name]) if v not in (value, "none"))
    match value:
        case bool():
            return not value
        case int() if name == "heads":
            return 1 if value > 1 else 7  # a divisor of hidden too
        case int():
            return value + 1 if name == "position_padding" else value + max(1, value // 2)
        case float():
            return value * 100 + 0.01
        case None:
            return 1
    raise AssertionError(f"no mutant for {name} = {value!r}: say here how to change it")


def caught(case: tuple[str, str, int], name: str, monkeypatch) -> bool:
    """Whether the spec with ``name`` changed is refused at load or gives other results."""
    files, inputs, types, wanted = made(*case)
    describe = EncoderFamily.describe

    def mutated(self: EncoderFamily, config: object, sentence: object) -> tuple[EncoderSpec, str]:
        spec, architecture = describe(self, config, sentence)
        if name:
            spec = dataclasses.replace(spec, **{name: changed(name, getattr(spec, name))})
        return spec, architecture

    with monkeypatch.context() as patch:
        patch.setattr(EncoderFamily, "describe", mutated)
        try:
            got = load(files, "float32").run(encode(head_task(case[1]), inputs, types))
        except (KelmError, KeyError):  # KeyError: the layout has no such head
            return True
    return not all(np.allclose(m, t.numpy(), rtol=1e-4, atol=3e-5) for m, t in zip(got, wanted, strict=True))


@pytest.mark.parametrize("case", CASES[:16])
def test_no_mutation_passes(case, monkeypatch):
    """Guards the guard: what is caught below is the mutation."""
    assert ENCODER_FAMILIES.keys() == CONFIGS.keys()
    assert not caught(case, "", monkeypatch)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(EncoderSpec)])
def test_spec_field(name, monkeypatch):
    assert any(caught(case, name, monkeypatch) for case in CASES)
