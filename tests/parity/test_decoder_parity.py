"""Every native decoder family against transformers: logits and greedy tokens, fp32, random small models.

The models are made so that a wrong detail shows: peaked attention, biting soft caps, prompts past every window and
past the original RoPE length.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoder_configs import CONFIGS, build
from parity_kit import Arena, save, step

from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load

CASES = [(family, seed) for family in CONFIGS for seed in range(4)]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def pair(request, tmp_path_factory):
    """(transformers' model, ours), the latter loaded from what the former saved."""
    family, seed = request.param
    model = build(family, seed)
    return model, load(save(model, tmp_path_factory.mktemp(f"{family}{seed}")), "float32")


def prompt(model, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (1, length), generator=generator)


def attach(decoder: LoadedDecoder, tokens: int) -> Arena:
    arena = Arena(decoder.groups, tokens)
    decoder.attach(arena.kv)
    return arena


@torch.no_grad()
def test_logits(pair):
    model, decoder = pair
    lengths = [1, 2, 16, 17, 65, 300, *np.random.default_rng(1).integers(3, 300, 3).tolist()]
    arena = attach(decoder, sum(lengths) + 16 * len(lengths))
    for seq, length in enumerate(lengths):
        ids = prompt(model, length, seq)
        wanted = model(ids).logits[0].numpy()
        got = step(decoder, arena, {seq: (ids[0].tolist(), 0)})
        if length == 300:
            assert 2 <= wanted.std() <= 10
        assert np.abs(got - wanted).max() <= TOLERANCE * max(wanted.std(), 1), f"{length} tokens"


@torch.no_grad()
def test_attention_is_peaked(pair):
    """Guards the guard: with flat attention a wrong position or window would hide in the average."""
    model, _ = pair
    weights = torch.stack(model(prompt(model, 200, 5), output_attentions=True).attentions)
    assert weights[..., 50:, :].amax(-1).mean() > 0.2


@torch.no_grad()
def test_64_greedy_tokens(pair):
    model, decoder = pair
    ids = prompt(model, 90, 9)
    model.generation_config.eos_token_id = None
    everything = torch.ones_like(ids)  # else generate takes token 0 for padding
    made = model.generate(ids, attention_mask=everything, max_new_tokens=64, do_sample=False, pad_token_id=0)
    wanted = made[0, 90:].tolist()
    arena = attach(decoder, 200)
    new, context, got = ids[0].tolist(), 0, []
    while len(got) < 64:
        logits = step(decoder, arena, {0: (new, context)}, every_row=False)
        context += len(new)
        new = [int(logits[0].argmax())]
        got += new
    assert got == wanted
