"""kelm.LLM: the worker's core in this process, from a home with an imported model, against transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from kelm import LLM, SamplingParams
from kelm.errors import ContextTooLong, InvalidRequest, ModelNotFound, UnsupportedModel
from kelm.store import Store
from kelm.testing.checkpoints import write_llama
from kelm.testing.tokenizers import write as write_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
SETTINGS = {"dtype": "float32", "threads": 1, "memory": 256 << 20}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    folder = write_llama(tmp_path_factory.mktemp("checkpoint"), seed=int(np.random.default_rng().integers(1 << 30)))
    Store(home).import_folder(folder, "tiny")
    _bert(tmp_path_factory.mktemp("bert"), home)
    _t5(tmp_path_factory.mktemp("t5"), home)
    return home


def _bert(folder: Path, home: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=430, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    write_tokenizer(folder, "word_piece")
    Store(home).import_folder(folder, "labels")


def _t5(folder: Path, home: Path) -> None:
    config = transformers.T5Config(
        vocab_size=430, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder, "unigram")
    Store(home).import_folder(folder, "t5")


@pytest.fixture(scope="module")
def llm(home: Path) -> Iterator[LLM]:
    llm = LLM("tiny", home=home, **SETTINGS)
    yield llm
    llm.close()


def test_greedy_tokens_are_transformers_own(llm: LLM, home: Path, tmp_path: Path) -> None:
    for name, path in Store(home).paths(Store(home).resolve("tiny")).items():
        (tmp_path / name).symlink_to(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompts = ["The quick brown fox", "怎么卸载一个模型?", "a"]
    for prompt, got in zip(prompts, llm.generate(prompts, GREEDY), strict=True):
        ids = llm.tokenizer.encode(prompt)
        want = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=12,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert got.token_ids == want[0, len(ids) :].tolist()
        assert got.text == llm.tokenizer.decode(got.token_ids)
        assert (got.finish_reason, got.prompt_token_ids) == ("length", ids)


def test_seeded_choices_differ_and_repeat(llm: LLM) -> None:
    params = SamplingParams(temperature=1, max_tokens=8, seed=3, n=3, ignore_eos=True)
    first, again = llm.generate("fox", params), llm.generate([llm.tokenizer.encode("fox")], params)
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert len({tuple(c.token_ids) for c in first}) == 3


def test_stop_strings_end_and_hide(llm: LLM) -> None:
    whole = llm.generate("The lazy dog", GREEDY)[0].text
    stop = whole[len(whole) // 2 :][:3]
    cut = llm.generate("The lazy dog", SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop=(stop,)))[0]
    assert cut.text == whole.split(stop)[0]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)


def test_chat_goes_through_the_template(llm: LLM) -> None:
    got = llm.chat([{"role": "user", "content": "over the <|im_end|> dog"}], GREEDY)[0]
    end = llm.tokenizer.token_id("<|im_end|>")
    assert got.prompt_token_ids.count(end) == 1  # the template's own; the user's is text
    assert len(got.token_ids) == 12


def test_logprobs(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=0, ignore_eos=True)
    got = llm.generate("jumps over", params)[0]
    assert [entry.token for entry in got.logprobs] == got.token_ids
    assert all(entry.rank == 1 and len(entry.top) == 2 for entry in got.logprobs)
    assert got.prompt_logprobs is not None
    assert [e.token for e in got.prompt_logprobs if e] == got.prompt_token_ids[1:]


def test_encoder_tasks(home: Path) -> None:
    llm = LLM("labels", home=home, **SETTINGS)
    rows = llm.classify(["the quick brown fox", "lazy"])
    assert [sorted(row) for row in rows] == [["LABEL_0", "LABEL_1", "LABEL_2"]] * 2
    assert all(sum(row.values()) == pytest.approx(1, abs=1e-5) for row in rows)
    with pytest.raises(InvalidRequest, match="generate"):
        llm.generate("x", GREEDY)


def test_an_encoder_decoder_runs_through_the_fallback(home: Path) -> None:
    llm = LLM("t5", home=home, **SETTINGS)
    assert (llm.info.executor, llm.info.kind) == ("fallback", "encoder-decoder")
    got = llm.generate("the quick brown fox", SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, n=2))
    assert got[0].token_ids == got[1].token_ids and len(got[0].token_ids) == 5


def test_what_does_not_fit_is_refused_and_nothing_is_lost(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(ContextTooLong):
        llm.generate([[1] * 600], GREEDY)
    with pytest.raises(InvalidRequest, match="temperature"):
        llm.generate("x", SamplingParams(temperature=-1))
    with pytest.raises(UnsupportedModel, match="embed"):
        llm.embed("x")
    with pytest.raises(ModelNotFound):
        LLM("nobody-has-this", home=tmp_path, **SETTINGS)
    assert llm.generate("x", GREEDY)[0].finish_reason == "length"


def test_importing_kelm_imports_no_torch() -> None:
    code = "import sys, kelm, kelm.store, kelm.text, json; print(json.dumps('torch' in sys.modules))"
    env = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env).stdout
    assert json.loads(out) is False
