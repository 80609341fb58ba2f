"""The embedded model on the native executor, as a user has it: torch's greedy answers, shown and counted."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

from cli_kit import Place
from kelm import LLM, SamplingParams
from kelm.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the install has no compiled kernels")
QUESTIONS = [
    "How do I see which models are loaded?",
    "Which command stops a model?",
    "I want to fine-tune a model on my own data",
    "Wie lade ich ein Modell herunter?",
    "show me what is running right now",
    "why is my request slow?",
    "serve a model in the background",
    "怎么删除一个模型?",
    "make a smaller model with 4 bits",
    "hello",
]


def test_greedy_answers_are_those_of_torch(tmp_path: Path) -> None:
    answers = {}
    for executor in ("native", "torch"):
        llm = LLM("nano", home=tmp_path, executor=executor, threads=1, memory="512MiB")
        assert llm.info.executor == executor
        params = SamplingParams(temperature=0, max_tokens=48)
        answers[executor] = [llm.chat([{"role": "user", "content": one}], params)[0].token_ids for one in QUESTIONS]
        llm.close()
    assert answers["native"] == answers["torch"]
    assert len({tuple(one) for one in answers["native"]}) > len(QUESTIONS) // 2, "all the same: the test could not fail"


def test_it_is_shown_and_counted(tmp_path: Path) -> None:
    place = Place(tmp_path, {"KELM_PORT": "0"})
    assert place.kelm("serve", "-d").returncode == 0
    try:
        assert place.kelm("run", "nano", QUESTIONS[0]).returncode == 0
        assert [(row["name"], row["executor"]) for row in place.rows("--models")] == [("nano:latest", "native")]
        with urllib.request.urlopen(place.url.removesuffix("/v1") + "/metrics", timeout=30) as response:
            page = response.read().decode()
        steps = re.search(r'^kelm_steps_total\{executor="native"\} (\d+)', page, re.MULTILINE)
        assert steps is not None and int(steps[1]) > 5 and 'executor="torch"' not in page
    finally:
        place.kelm("shutdown")


def test_torch_can_be_asked_for(tmp_path: Path) -> None:
    place = Place(tmp_path, {"KELM_PORT": "0"})
    assert place.kelm("serve", "-d", "nano", "--executor", "torch").returncode == 0
    try:
        assert [row["executor"] for row in place.rows("--models")] == ["torch"]
    finally:
        place.kelm("shutdown")
    refused = place.kelm("serve", "--executor", "tornado")
    assert refused.returncode != 0 and "auto, native, torch" in refused.stderr
