"""A grammar's answer fits it, whatever the model would rather say, and goes on identically after a restart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kelm.testing.drive import Driver
from kelm.testing.hash_model import HashModel, open_hash_model
from kelm.text import grammar
from kelm.wire.messages import Sampling, Submit
from kelm.worker.settings import EngineSettings

KIND = EngineSettings(memory_bytes=16 << 20, kv_bytes=1 << 20, slab_bytes=1 << 16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tokenizer of single bytes and an end token, as a checkpoint carries it."""
    folder: Path = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: number for number, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (folder / "config.json").write_text('{"eos_token_id": 256, "vocab_size": 257}')
    return {path.name: str(path) for path in folder.iterdir()}


def request(pid: int, pattern: str, generated: list[int] | None = None) -> Submit:
    return Submit(
        pid=pid,
        model="model",
        prompt=[pid, 2, 3],
        sampling=Sampling(
            seed=pid, max_tokens=40, temperature=1.0, stop_token_ids=(256,), grammar=grammar.from_regex(pattern)
        ),
        generated=[] if generated is None else [generated],
    )


def text(files: dict[str, str], ids: list[int]) -> str:
    return str(Tokenizer.from_file(files["tokenizer.json"]).decode(ids))


def test_answers_fit_their_grammar(files: dict[str, str]) -> None:
    pattern = "(yes|no|maybe [a-f]{2,5}), [0-9]{3}"
    work = [request(pid, pattern) for pid in range(12)]
    heard = Driver(KIND, open_hash_model(HashModel(257)), files).run(work)
    assert not heard.failed
    answers = {text(files, ids) for ids in heard.tokens.values()}
    assert all(re.fullmatch(pattern, answer) for answer in answers)
    assert len(answers) > 3
    assert set(heard.ends.values()) == {("stop", 256)}


def test_a_restart_goes_on_inside_the_grammar(files: dict[str, str]) -> None:
    pattern = "[a-z]{12}(-[0-9]{4}){2}"
    whole = Driver(KIND, open_hash_model(HashModel(257)), files).run([request(1, pattern)]).tokens[(1, 0)]
    for cut in (0, 1, 13, len(whole) - 1):
        rest = Driver(KIND, open_hash_model(HashModel(257)), files).run([request(1, pattern, whole[:cut])])
        assert whole[:cut] + rest.tokens[(1, 0)] == whole


def test_a_grammar_that_does_not_compile_is_refused(files: dict[str, str]) -> None:
    from kelm.errors import InvalidRequest

    driver = Driver(KIND, open_hash_model(HashModel(257)), files)
    bad = Submit(
        pid=1, model="model", prompt=[1], sampling=Sampling(seed=0, max_tokens=3, grammar='{"grammars": [{"x": 1}]}')
    )
    with pytest.raises(InvalidRequest, match="grammar"):
        driver.engine.submit(bad)
    assert not driver.engine.step().tokens
    assert not driver.engine.has_work()
