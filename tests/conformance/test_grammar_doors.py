"""Grammars through the doors: the request's own, and the one that a checkpoint carries, on random weights."""

from __future__ import annotations

import json
import re
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from daemon_kit import Daemon, daemon, make_home, write_llama
from kelm.store import Store

WORD = 'start: "yes" | "no" | "perhaps not"'
DATE = "start: /[0-9]{4}-[0-9]{2}-[0-9]{2}/"


def _chat(served: Daemon, model: str, **more: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "fox?"}], "max_completion_tokens": 40, **more}
    return str(served.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])


def test_a_request_brings_its_own(served: Daemon) -> None:
    for seed in range(4):
        assert _chat(served, "toy", grammar=WORD, seed=seed) in ("yes", "no", "perhaps not")
    body = {"model": "toy", "prompt": "The date is ", "grammar": DATE, "max_tokens": 40, "n": 3}
    for choice in served.post("/v1/completions", body)["choices"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", choice["text"])


@pytest.mark.parametrize("grammar", ["start: nobody", "(((", "", 7])
def test_one_that_does_not_compile_is_the_requests_own_error(served: Daemon, grammar: object) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        _chat(served, "toy", grammar=grammar)
    assert caught.value.code == 400
    assert json.loads(caught.value.read())["error"]["param"] == "grammar"


def test_a_checkpoints_own_masks_its_chats_and_nothing_else(tmp_path: Path) -> None:
    home = make_home(tmp_path / "made")
    folder = write_llama(tmp_path / "strict")
    (folder / "grammar.lark").write_text(WORD)
    Store(home).import_folder(folder, "strict")
    with daemon(home) as served:
        assert {_chat(served, "strict", seed=seed) for seed in range(5)} <= {"yes", "no", "perhaps not"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", _chat(served, "strict", grammar=DATE))
        body = {"model": "strict", "prompt": "yes", "max_tokens": 20, "seed": 1}
        assert served.post("/v1/completions", body)["choices"][0]["text"] not in ("", "yes", "no", "perhaps not")
