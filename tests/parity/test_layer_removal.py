"""A model without some layers computes what its own other layers do, for every family; and transformers reads it so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from decoder_configs import CONFIGS, build
from parity_kit import Arena, edit_config, files_of, save, step

from kelm.compress import folder as checkpoints
from kelm.compress.influence import influence
from kelm.compress.layers import config_of, least_influential
from kelm.compress.plan import Plan
from kelm.compress.source import Source
from kelm.errors import UnsupportedModel
from kelm.models.decoder import LoadedDecoder
from kelm.models.loader import load
from kelm.models.quantization import Quantization
from quantized_kit import source_of

IDS = np.random.default_rng(3).integers(0, 90, 150).tolist()


def logits(decoder: LoadedDecoder, ids: list[int] = IDS) -> torch.Tensor:
    arena = Arena(decoder.groups, 400)
    decoder.attach(arena.kv)
    return torch.from_numpy(step(decoder, arena, {0: (ids, 0)}))


def loaded(files: dict[str, str]) -> LoadedDecoder:
    decoder = load(files)
    assert isinstance(decoder, LoadedDecoder)
    return decoder


def without(decoder: LoadedDecoder, kept: tuple[int, ...]) -> LoadedDecoder:
    """The same weights and the same layers, without files in between."""
    spec = replace(decoder.spec, layers=tuple(decoder.spec.layers[n] for n in kept))
    weights = {name: w for name, w in decoder._weights.items() if not name.startswith("layers.")}
    for new, old in enumerate(kept):
        start = f"layers.{old}."
        weights |= {name.replace(start, f"layers.{new}.", 1): w
                    for name, w in decoder._weights.items() if name.startswith(start)}  # fmt: skip
    return LoadedDecoder(spec, weights, decoder.info)


def source(family: str, seed: int, folder: Path, **changes: object) -> Source:
    files = save(build(family, seed), folder / "plain")
    config = json.loads(Path(files["config.json"]).read_text())
    edit_config(files, **{name: value for name, value in changes.items() if value is not ... or name in config})
    return source_of(folder / "plain", folder / "home")


def write(made: Source, kept: tuple[int, ...], folder: Path) -> dict[str, str]:
    checkpoints.write(folder, Plan(made, kept, None, False), lambda done, total: None)
    return files_of(folder)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_left_computes_what_it_did(family, seed, tmp_path):
    """layer_types is taken out first: a config that leaves it to the layers' places must come to name it."""
    made = source(family, seed, tmp_path, layer_types=..., scale_attn_by_inverse_layer_idx=False)
    whole = loaded(dict(made.files))
    for number, kept in enumerate([tuple(range(1, made.depth)), (0, *range(2, made.depth)), (made.depth - 1,)]):
        files = write(made, kept, tmp_path / str(number))
        small = loaded(files)
        assert len(small.spec.layers) == len(kept)
        assert torch.equal(logits(small), logits(without(whole, kept)))
        assert not torch.equal(logits(small), logits(whole))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / str(number), attn_implementation="eager")
        with torch.no_grad():
            wanted = theirs(torch.tensor([IDS])).logits[0]
        assert (logits(small) - wanted).abs().max() <= 2e-4 * wanted.std()


def test_every_list_of_layers_is_thinned(tmp_path):
    made = source("llama", 1, tmp_path)
    depth = made.depth
    made.config.update(layer_types=["full_attention"] * depth, layer_notes=list(range(depth)), others=[1] * depth)
    config = config_of(made, (0,))
    assert config["num_hidden_layers"] == 1 and config["layer_types"] == ["full_attention"]
    assert config["layer_notes"] == [0] and config["others"] == [1] * depth
    assert config_of(made, tuple(range(depth))) == made.config


def test_late_windows_begin_where_they_did(tmp_path):
    """max_window_layers is what older readers of Qwen look at."""
    made = source(
        "qwen2", 6, tmp_path, use_sliding_window=True, sliding_window=33, max_window_layers=2, layer_types=...
    )
    assert [layer.window for layer in made.spec.layers] == [None, None, 33]
    for kept, full in (((0, 2), 1), ((2,), 0), ((0, 1), 2)):
        config = config_of(made, kept)
        assert (config["max_window_layers"], len(config["layer_types"])) == (full, len(kept))


def test_linears_that_lie_the_other_way_are_not_rounded(tmp_path):
    made = source("gpt2", 1, tmp_path)
    with pytest.raises(UnsupportedModel, match=r"keeps its linears as \[in, out\]"):
        Plan(made, (0, 1), Quantization(8, None), False).check()
    Plan(made, (0, 1), None, False).check()


def test_a_place_that_config_json_cannot_keep(tmp_path):
    made = source("gpt2", 1, tmp_path, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UnsupportedModel, match="depends on their place"):
        config_of(made, tuple(range(1, made.depth)))
    config_of(made, tuple(range(made.depth - 1)))  # the last one may go


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_influence_is_that_of_the_hidden_states(family, tmp_path):
    """Equation 1 of arXiv 2403.03853, over what transformers' layers are given and give."""
    model = build(family, 2)
    decoder = loaded(save(model, tmp_path))
    texts = [IDS, IDS[:3], IDS[10:40]]
    layers = model.transformer.h if family == "gpt2" else model.model.layers
    sums, seen = [0.0] * len(layers), 0

    def watch(number):
        def hook(_, args, kwargs, out):
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            sums[number] += float(torch.nn.functional.cosine_similarity(before[0], after[0], dim=-1).sum())

        return hook

    for number, layer in enumerate(layers):
        layer.register_forward_hook(watch(number), with_kwargs=True)
    for ids in texts:
        seen += len(ids)
        with torch.no_grad():
            model(torch.tensor([ids]), use_cache=False)
    got = influence(decoder, texts, lambda done, total: None)
    np.testing.assert_allclose(got, [1 - one / seen for one in sums], atol=2e-5)
    assert min(got) > 1e-3, "a random model's layers change something"


def test_windows_and_the_bound_of_calibration(tmp_path, monkeypatch):
    """Long texts are cut, and only so many tokens are looked at."""
    from kelm import limits
    from kelm.compress import influence as module

    decoder = loaded(save(build("llama", 2), tmp_path))
    monkeypatch.setattr(module, "WINDOW_TOKENS", 40)
    monkeypatch.setattr(module, "CALIBRATION_TOKENS", replace(limits.CALIBRATION_TOKENS, default=90))
    seen: list[tuple[int, int]] = []
    got = influence(decoder, [IDS], lambda done, total: seen.append((done, total)))
    assert seen == [(40, 90), (80, 90), (90, 90)]
    monkeypatch.setattr(module, "WINDOW_TOKENS", 512)
    np.testing.assert_allclose(
        got, influence(decoder, [IDS[:40], IDS[40:80], IDS[80:90]], lambda d, t: None), atol=1e-6
    )


def test_which_layers_go():
    influences = [0.0, 0.3, 0.1, 0.2, 0.1, 0.0]
    assert least_influential(influences, 1) == (4,)
    assert least_influential(influences, 2) == (2, 4)
    assert least_influential(influences, 4) == (1, 2, 3, 4)
