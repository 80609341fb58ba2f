"""Every native encoder family with every head against transformers, fp32, one text at a time there, a batch here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from encoder_configs import CONFIGS, HEADS, MASK, build, save, texts
from safetensors.torch import load_file, save_file

from kelm.errors import InvalidRequest
from kelm.models.loader import load
from kelm.wire.messages import Encode

CASES = [(family, head, seed) for family in CONFIGS for head in HEADS for seed in range(3 if head == "classify" else 1)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def pair(request, tmp_path_factory):
    family, head, seed = request.param
    model = build(family, head, seed)
    return head, model, load(save(model, tmp_path_factory.mktemp("encoder")), "float32")


def types_for(model, inputs: list[list[int]]) -> list[list[int]]:
    count = getattr(model.config, "type_vocab_size", 0)
    return [[i * 7 // len(ids) % count for i in range(len(ids))] for ids in inputs] if count else []


def encode(task: str, inputs: list[list[int]], types: list[list[int]], **more: object) -> Encode:
    return Encode(pid=1, model="m", task=task, inputs=inputs, types=types, **more)


@torch.no_grad()
def reference(model, inputs: list[list[int]], types: list[list[int]]) -> list[torch.Tensor]:
    """First output of transformers for each text: states or logits, [tokens, n] or [n]."""
    out = []
    for number, ids in enumerate(inputs):
        extra = {"token_type_ids": torch.tensor([types[number]])} if types else {}
        made = model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **extra)
        out.append(made[0][0])
    return out


def head_task(head: str) -> str:
    return "embed" if head == "none" else head


def wanted_of(head: str, made: list[torch.Tensor], inputs: list[list[int]]) -> list[torch.Tensor]:
    match head:
        case "none":
            return [torch.nn.functional.normalize(states.mean(0), dim=0) for states in made]
        case "classify":
            return [logits.sigmoid() if len(logits) == 1 else logits.softmax(-1) for logits in made]
        case "token_classify":
            return [logits.softmax(-1) for logits in made]
    masks = [[i for i, token in enumerate(ids) if token == MASK] for ids in inputs]
    return [logits[at].log_softmax(-1) for logits, at in zip(made, masks, strict=True)]


def test_results(pair):
    head, model, encoder = pair
    inputs = texts(model, 5)
    types = types_for(model, inputs)
    got = encoder.run(encode(head_task(head), inputs, types))
    wanted = wanted_of(head, reference(model, inputs, types), inputs)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=3e-5)


def test_embeddings_of_any_head_and_pooling(pair):
    _, model, encoder = pair
    inputs = texts(model, 6, (1, 70, 130))
    types = types_for(model, inputs)
    states = reference(model.base_model, inputs, types)
    pooled = {"mean": lambda s: s.mean(0), "cls": lambda s: s[0], "last": lambda s: s[-1]}
    for pooling, pool in pooled.items():
        got = encoder.run(encode("embed", inputs, types, pooling=pooling, normalize=False))
        for mine, theirs in zip(got, states, strict=True):
            np.testing.assert_allclose(mine, pool(theirs).numpy(), rtol=1e-4, atol=1e-4)


def test_info(pair):
    head, model, encoder = pair
    assert encoder.tasks == (("embed",) if head == "none" else ("embed", head))
    labelled = head in ("classify", "token_classify")
    assert encoder.labels == (tuple(model.config.id2label.values()) if labelled else ())
    assert encoder.info.architecture == type(model).__name__


def test_longest_text(pair):
    """The table's last position is used, and one token more is an error that says so."""
    _, model, encoder = pair
    longest = encoder.info.max_context_tokens
    inputs = [[9] * longest]
    types = types_for(model, inputs)
    states = reference(model.base_model, inputs, types)
    got = encoder.run(encode("embed", inputs, types, pooling="last", normalize=False))
    np.testing.assert_allclose(got[0], states[0][-1].numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(InvalidRequest, match=f"input 0 has {longest + 1} tokens; this model takes 1 to {longest}"):
        encoder.run(encode("embed", [[9] * (longest + 1)], []))


@pytest.mark.parametrize(
    ("problem", "made"),
    [
        ("regression", lambda logits: logits),
        ("multi_label_classification", torch.sigmoid),
        ("single_label_classification", lambda logits: logits.softmax(-1)),
    ],
)
def test_problem_type(problem, made, tmp_path):
    model = build("bert", "classify", 1)
    model.config.problem_type = problem
    encoder = load(save(model, tmp_path), "float32")
    inputs = texts(model, 5)
    types = types_for(model, inputs)
    for mine, theirs in zip(
        encoder.run(encode("classify", inputs, types)), reference(model, inputs, types), strict=True
    ):
        np.testing.assert_allclose(mine, made(theirs).numpy(), rtol=1e-4, atol=3e-5)


def rewrite(files: dict[str, str], rename: Callable[[str], str]) -> None:
    tensors = load_file(files["model.safetensors"])
    save_file({rename(name): tensor for name, tensor in tensors.items()}, files["model.safetensors"])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        lambda name: name.removeprefix("bert."),
    ],
    ids=["tensorflow's names", "no prefix"],
)
def test_other_names_of_the_same_tensors(rename, tmp_path):
    files = save(build("bert", "fill_mask", 0), tmp_path)
    request = encode("fill_mask", [[9, MASK, 11]], [])
    wanted = load(files, "float32").run(request)[0]
    rewrite(files, rename)
    np.testing.assert_array_equal(load(files, "float32").run(request)[0], wanted)


def test_without_a_mask_token_there_is_no_fill_mask(tmp_path):
    files = save(build("bert", "fill_mask", 0), tmp_path)
    del files["tokenizer_config.json"]
    encoder = load(files, "float32")
    assert encoder.tasks == ("embed",)
    with pytest.raises(InvalidRequest, match="task fill_mask is not one of this model's: embed"):
        encoder.run(encode("fill_mask", [[9, MASK, 11]], []))


@pytest.mark.parametrize(
    ("inputs", "types", "message"),
    [
        ([[1], []], [], "input 1 has 0 tokens"),
        ([[1, 5000]], [], "input 0 has a token outside"),
        ([[-1]], [], "input 0 has a token outside"),
        ([[1, 2]], [[0]], "input 0 needs a type"),
        ([[1, 2]], [[0, 9]], "input 0 needs a type"),
        ([[1], [2]], [[0]], "types: 1 lists for 2 inputs"),
    ],
)
def test_bad_inputs(inputs, types, message, tmp_path):
    encoder = load(save(build("bert", "none", 0), tmp_path))
    with pytest.raises(InvalidRequest, match=message):
        encoder.run(encode("embed", inputs, types))
