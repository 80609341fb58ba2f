"""The method's numbers: plan, rate, warm-up, which epoch is kept; and what is learnt of a conversation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from kelm.testing import tokenizers
from kelm.text.tokenizer import Tokenizer
from kelm.tune.base import micro_batches
from kelm.tune.chat import answer_of
from kelm.tune.loop import Row, _is_best
from kelm.tune.methods import learning_rate, plan, rate
from kelm.wire.jobs import Tune


def spec(**given: Any) -> Tune:
    return Tune(base="b", variant="v", file="f.csv", **given)


def test_the_rate_falls_with_the_width() -> None:
    assert rate(2000) == 5e-4 and rate(384) == pytest.approx(1.81e-3, rel=0.01) and rate(192) > rate(384)


def test_a_plan_needs_no_flags_and_takes_them() -> None:
    made = plan("classification", spec(), examples=120, width=384)
    assert (made.steps_per_epoch, made.epochs, made.steps, made.warmup_steps) == (8, 20, 160, 16)
    assert made.learning_rate == rate(384) and made.rank == 8
    given = plan("chat", spec(epochs=3, learning_rate=0.01, rank=2, seed=9), examples=17, width=192)
    assert (given.epochs, given.learning_rate, given.rank, given.seed, given.steps) == (3, 0.01, 2, 9, 9)


def test_many_examples_need_fewer_epochs_and_at_least_one() -> None:
    assert plan("classification", spec(), examples=16_000, width=384).epochs == 4
    assert plan("classification", spec(), examples=1_000_000, width=384).epochs == 1


def test_the_rate_goes_up_in_a_line_and_down_in_a_line() -> None:
    made = plan("classification", spec(epochs=10, learning_rate=0.1), examples=16, width=384)
    rates = [learning_rate(step, made) for step in range(made.steps)]
    assert made.warmup_steps == 1 and rates[0] == 0.1 and rates[-1] == pytest.approx(0.1 / 9)
    falls = [before - after for before, after in itertools.pairwise(rates)]
    assert falls[0] == 0 and falls[1:] == pytest.approx([falls[1]] * (len(falls) - 1))
    slow = plan("classification", spec(epochs=40, learning_rate=0.1), examples=16, width=384)
    assert [learning_rate(step, slow) for step in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])


def curve(*epochs: tuple[float, float]) -> list[Row]:
    return [Row(i, i, 0.1, 0.1, loss, {"macro_f1": f1}) for i, (f1, loss) in enumerate(epochs, 1)]


def test_the_epoch_that_is_kept() -> None:
    assert _is_best(curve((0.9, 0.4)), 0.0)
    assert _is_best(curve((0.9, 0.4), (0.95, 0.6)), 0.0), "right answers come before being sure of them"
    assert not _is_best(curve((0.9, 0.4), (0.8, 0.1)), 0.0)
    assert not _is_best(curve((0.9, 0.4), (0.9, 0.41)), 0.0)
    assert _is_best(curve((0.0, 4.0), (0.0, 4.05)), 0.02), "within the tolerance the later one has learnt more"
    assert not _is_best(curve((0.0, 4.0), (0.0, 4.05), (0.0, 4.1)), 0.02), "measured from the lowest, it does not creep"


def test_pieces_of_a_step_have_a_bounded_size_and_lose_nothing() -> None:
    lengths = [500, 20, 600, 1500, 700, 700, 700, 30, 5000, 1]
    pieces = micro_batches(lengths)
    assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(len(lengths)))
    for piece in pieces:
        part = lengths[piece]
        assert len(part) == 1 or max(part) * len(part) <= 2048
    assert len(pieces) < len(lengths)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_TWO = CHATML.replace("messages %}", "messages[-2:] %}", 1)
ENDLESS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TALK = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "second <|im_end|> answer"},
]


def tokenizer(folder: Path, template: str) -> Tokenizer:
    config = {"chat_template": template, "eos_token": "<|im_end|>"}
    return Tokenizer.load(tokenizers.write(folder, config=config))


def parts(made: Tokenizer, messages: list[dict[str, str]]) -> tuple[str, str]:
    answer = answer_of(made, messages)
    return made.decode(answer.ids[: answer.prompt], False), made.decode(answer.ids[answer.prompt :], False)


def test_what_is_learnt_is_the_answer_and_its_end_behind_the_prompt_that_is_served(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, CHATML)
    prompt, answer = parts(made, TALK)
    assert prompt.endswith("<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n") and "first" in prompt
    assert answer == "second <|im_end|> answer<|im_end|>", "the line end behind it is nobody's to learn"
    ids = answer_of(made, TALK).ids
    assert ids.count(made.eos_ids[0]) == 4, "what a text spells is no end"


def test_a_template_that_drops_the_beginning(tmp_path: Path) -> None:
    prompt, answer = parts(tokenizer(tmp_path, LAST_TWO), TALK)
    assert prompt == ("<|im_start|>assistant\nfirst<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n"
                      "<|im_start|>assistant\n")  # fmt: skip
    assert answer == "second <|im_end|> answer<|im_end|>"


def test_a_template_without_an_end_gets_the_models(tmp_path: Path) -> None:
    prompt, answer = parts(tokenizer(tmp_path, ENDLESS), TALK[:2])
    assert prompt == "user: hello\nassistant: " and answer == "first\n<|im_end|>"
