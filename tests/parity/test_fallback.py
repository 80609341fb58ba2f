"""The fallback executor gives the tokens and logits that `transformers` itself gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kelm.errors import ModelFormatError, UnsupportedModel
from kelm.models.batch import Batch, Span
from kelm.models.fallback import FallbackDecoder, load_fallback

COMMON = {"vocab_size": 131, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "phi3": lambda: transformers.Phi3Config(
        **COMMON, intermediate_size=72, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**COMMON, intermediate_size=72, bos_token_id=1, eos_token_id=2),
    "olmo2": lambda: transformers.Olmo2Config(
        **COMMON, intermediate_size=72, num_key_value_heads=2, pad_token_id=0, eos_token_id=2
    ),
}


def _save(model: Any, folder: Path) -> dict[str, str]:
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(6)
    model.save_pretrained(folder)
    return {p.name: str(p) for p in folder.iterdir()}


def _decoder(name: str, folder: Path) -> tuple[Any, dict[str, str]]:
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").eval()
    return model, _save(model, folder)


def _t5(folder: Path) -> tuple[Any, dict[str, str]]:
    torch.manual_seed(5)
    config = transformers.T5Config(
        vocab_size=131, d_model=48, d_kv=12, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    return model, _save(model, folder)


def _step(
    executor: FallbackDecoder, seq: int, tokens: list[int], context: int, prompt: int, source: list[int] | None = None
) -> np.ndarray:
    """[len(tokens), vocab]"""
    prompts = {seq: np.array(source)} if source is not None and context == 0 else {}
    span = Span(seq=seq, start=0, length=len(tokens), context=context, tables=(), prompt=prompt)
    return executor.forward(Batch(np.array(tokens), (span,), np.arange(len(tokens)), prompts))


def _greedy(executor: FallbackDecoder, seq: int, prompt: list[int], count: int, source: list[int] | None) -> list[int]:
    out: list[int] = []
    logits = _step(executor, seq, prompt, 0, len(prompt), source)
    for _ in range(count):
        out.append(int(logits[-1].argmax()))
        logits = _step(executor, seq, out[-1:], len(prompt) + len(out) - 1, len(prompt))
    return out


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model, files = _decoder(name, tmp_path)
    executor, info = load_fallback(files, "float32")
    assert (info.architecture, info.kind, executor.groups) == (name, "decoder", ())
    prompt = [int(t) for t in np.random.default_rng(3).integers(3, 131, 37)]
    with torch.inference_mode():
        want = model(torch.tensor([prompt])).logits[0].numpy()
    got = _step(executor, 1, prompt, 0, len(prompt))
    assert np.abs(got - want).max() <= 1e-4 * want.std()
    want_ids = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 37, dtype=torch.long), max_new_tokens=24,
        min_new_tokens=24, do_sample=False, pad_token_id=0, eos_token_id=None,
    )[0, 37:].tolist()  # fmt: skip
    assert _greedy(executor, 2, prompt, 24, None) == want_ids


def test_encoder_decoder(tmp_path: Path) -> None:
    model, files = _t5(tmp_path)
    executor, info = load_fallback(files, "float32")
    assert info.kind == "encoder-decoder" and executor.decoder_start == 0
    source = [int(t) for t in np.random.default_rng(4).integers(3, 131, 20)]
    want = model.generate(
        torch.tensor([source]), max_new_tokens=16, min_new_tokens=16, do_sample=False, eos_token_id=None
    )[0, 1:].tolist()
    assert _greedy(executor, 1, [0], 16, source) == want


def test_chunks_company_forks_and_replay_change_no_bit(tmp_path: Path) -> None:
    _, files = _decoder("olmo2", tmp_path)
    executor, _ = load_fallback(files, "float32")
    prompt = [int(t) for t in np.random.default_rng(5).integers(3, 131, 29)]
    whole = _step(executor, 1, prompt, 0, 29)[-1:]
    for cut in (1, 13, 28):  # nobody wants logits of the first part: it waits
        head = Span(seq=2, start=0, length=cut, context=0, tables=(), prompt=29)
        executor.forward(Batch(np.array(prompt[:cut]), (head,), np.array([], np.int64)))
        tail = Span(seq=2, start=0, length=29 - cut, context=cut, tables=(), prompt=29)
        got = executor.forward(Batch(np.array(prompt[cut:]), (tail,), np.array([28 - cut])))
        assert np.array_equal(got, whole)
        executor.forget(2)
    answer = _greedy(executor, 3, prompt, 8, None)
    executor.fork(3, 4)
    one = [_step(executor, seq, [7], 37, 29) for seq in (3, 4)]
    assert np.array_equal(one[0], one[1])
    known = prompt + answer + [7]
    replay = Span(seq=9, start=0, length=38, context=0, tables=(), prompt=29)
    assert np.array_equal(executor.forward(Batch(np.array(known), (replay,), np.array([37]))), one[0])


def test_no_code_from_the_folder(tmp_path: Path) -> None:
    _, files = _decoder("olmo2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('code from the folder ran')")
    executor, _ = load_fallback({**files, "evil.py": str(tmp_path / "evil.py")}, "auto")
    assert executor.vocab == 131


def test_unknown_architecture_and_missing_weights(tmp_path: Path) -> None:
    _, files = _decoder("olmo2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelFormatError, match="lack"):
        load_fallback(files, "auto")
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["Olmo2ForSomethingElse"]}))
    with pytest.raises(UnsupportedModel, match="generate"):
        load_fallback(files, "auto")
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    with pytest.raises(UnsupportedModel, match="nobody_knows"):
        load_fallback(files, "auto")
