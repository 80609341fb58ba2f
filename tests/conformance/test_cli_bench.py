"""`kelm bench` as a person runs it, on a toy."""

from __future__ import annotations

import json

import pytest

from cli_kit import Place
from kelm.testing.checkpoints import write_llama


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"), {})
    done = place.kelm("import", str(write_llama(place.root / "toy")), "--name", "toy")
    assert done.returncode == 0, done.stderr
    return place


def test_the_table(place: Place) -> None:
    done = place.kelm("bench", "toy", "--streams", "2,1", "--prompt-tokens", "32", "--tokens", "4", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["model", "runs", "processor", "weights", "load", "prefill"]
    assert "toy:latest: LlamaForCausalLM" in lines[0]
    assert "1 thread" in lines[1]
    assert "for a prompt of 32" in lines[5]
    assert lines[7].split() == ["STREAMS", "TOK/S", "TOK/S", "EACH", "MS", "A", "STEP", "OF", "BANDWIDTH"]
    assert [line.split()[0] for line in lines[8:]] == ["1", "2"]
    assert done.stderr == "", "no bar where there is no terminal"


def test_json(place: Place) -> None:
    done = place.kelm("bench", "toy", "--streams", "1,2", "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["executor"] in ("native", "torch")
    assert (found["prompt_tokens"], found["tokens"]) == (256, 64), "what fits a context of 512"
    assert found["prefill_tokens_s"] > 0
    assert [one["streams"] for one in found["decode"]] == [1, 2]
    assert all(one["tokens_s"] > 0 and one["bandwidth_share"] > 0 for one in found["decode"])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["toy", "--streams", "two"], 2, "--streams must be numbers such as 1,4,16, got 'two'"),
        (["toy", "--tokens", "1"], 2, "tokens must be between 2 and"),
        (["toy", "--prompt-tokens", "500", "--tokens", "64"], 2, "do not fit the context of 512"),
        (["toyy"], 1, "did you mean toy?"),
    ],
)
def test_bad_input(place: Place, args: list[str], code: int, words: str) -> None:
    done = place.kelm("bench", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
