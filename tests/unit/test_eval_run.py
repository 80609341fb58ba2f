"""A model over a task: what it can't do is refused with the line, generations repeat, and what people get to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
from rich.console import Console

from eval_kit import LABELS, SETTINGS, make_home, task_file
from kelm import LLM, SamplingParams
from kelm.errors import ContextTooLong, InvalidRequest, UnsupportedModel
from kelm.evaluate import evaluate, metrics, picture, read, report
from kelm.evaluate.results import Result
from kelm.evaluate.runner import ROWS_AT_ONCE


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def decoder(home: Path) -> Iterator[LLM]:
    llm = LLM("tiny", home=home, **SETTINGS)
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def classifier(home: Path) -> Iterator[LLM]:
    llm = LLM("labels", home=home, **SETTINGS)
    yield llm
    llm.close()


def test_generations_are_the_greedy_ones(decoder: LLM, tmp_path: Path) -> None:
    prompts = [f"fox number {i}" for i in range(ROWS_AT_ONCE + 3)]
    params = SamplingParams(temperature=0, max_tokens=5)
    right = [decoder.generate(prompt, params)[0].text for prompt in prompts]
    rows = [{"prompt": p, "reference": text or "-"} for p, text in zip(prompts, right, strict=True)]
    seen: list[tuple[int, int]] = []
    got = evaluate(decoder, read(task_file(tmp_path, rows)), lambda *at: seen.append(at), max_tokens=5)
    assert got.metrics["exact_match"] == sum(bool(text.strip()) for text in right) / len(right)
    assert seen == [(0, 19), (16, 19), (19, 19)]
    assert dict(got.metrics) == metrics.generation(right, [row["reference"] for row in rows])


def test_messages_go_through_the_template(decoder: LLM, tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": text}] for text in ("the lazy dog", "你好")]
    right = [decoder.chat(chat, SamplingParams(temperature=0, max_tokens=4))[0].text for chat in chats]
    bare = decoder.generate("the lazy dog", SamplingParams(temperature=0, max_tokens=4))[0].text
    assert right[0] != bare
    rows = [{"messages": chat, "reference": text} for chat, text in zip(chats, right, strict=True)]
    assert evaluate(decoder, read(task_file(tmp_path, rows)), max_tokens=4).metrics["exact_match"] == 1


def test_an_answer_ends_where_the_context_does(decoder: LLM, tmp_path: Path) -> None:
    """Beside a row with more room: each row's answer is its own."""
    prompts = ["fox " * 20, "fox"]
    rooms = [64 - len(decoder.tokenizer.encode(prompt)) for prompt in prompts]
    assert rooms[0] < 40 < rooms[1]
    right = [
        decoder.generate(prompt, SamplingParams(temperature=0, max_tokens=room))[0].text
        for prompt, room in zip(prompts, (rooms[0], 40), strict=True)
    ]
    rows = [{"prompt": prompt, "reference": text} for prompt, text in zip(prompts, right, strict=True)]
    assert evaluate(decoder, read(task_file(tmp_path, rows)), max_tokens=40).metrics["exact_match"] == 1


LONG = "fox " * 200
REFUSED = {
    "perplexity_of_an_encoder": ("labels", [{"text": "x"}], UnsupportedModel, "perplexity .* needs a decoder"),
    "generation_of_an_encoder": (
        "labels", [{"prompt": "x", "reference": "y"}], UnsupportedModel, "can embed, classify; .* one that generates"
    ),
    "a_label_it_lacks": (
        "labels", [{"text": "x", "label": "billing"}, {"text": "x", "label": "biling"}], InvalidRequest,
        "task.jsonl:2: the label 'biling' is none of labels:latest's.*did you mean billing"
    ),
    "one_label": ("tiny", [{"text": "x", "label": "a"}], InvalidRequest, "1 different labels; a decoder picks"),
    "a_long_text": (
        "labels", [{"text": "x", "label": "billing"}, {"text": LONG, "label": "billing"}], ContextTooLong,
        "task.jsonl:2: a text has"
    ),
    "a_long_prompt": (
        "tiny", [{"prompt": "x", "reference": "y"}, {"prompt": LONG, "reference": "y"}], ContextTooLong,
        "task.jsonl:2: .* do not fit the context of 64"
    ),
    "a_role_nobody_has": (
        "tiny", [{"messages": [{"role": "pirate", "content": "x"}], "reference": "y"}], InvalidRequest,
        "task.jsonl:1: .*pirate"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "rows", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_model_cannot_do_is_refused(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    model: str,
    rows: list[dict[str, object]],
    error: type[Exception],
    message: str,
) -> None:
    llm = request.getfixturevalue({"tiny": "decoder", "labels": "classifier"}[model])
    with pytest.raises(error, match=message):
        evaluate(llm, read(task_file(tmp_path, rows)), max_tokens=5)


def _result(labels: tuple[str, ...]) -> Result:
    right = [label for i, label in enumerate(labels) for _ in range(i + 2)]
    given = [*right[1:], right[0]]
    made = metrics.classification(right, given, labels)
    figures = {"accuracy": made.accuracy, "macro_f1": made.macro_f1, "micro_f1": made.micro_f1}
    return Result("m", "t.jsonl", "classification", len(right), figures, {}, made.classes, made.confusion)


@pytest.mark.parametrize("count", [1, 3, 60])
def test_a_picture_of_a_classification(tmp_path: Path, count: int) -> None:
    """Labels in any script, with dollars, and longer than there is room for."""
    labels = tuple(f"{name} {i}" for i, name in zip(range(count), ["$x_{$", "退货", "a" * 90] * 20, strict=False))
    report.write_png(_result(labels), tmp_path / "report.png")
    pixels = matplotlib.image.imread(tmp_path / "report.png")
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800 and pixels.std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["report.png"]


def test_the_bars_are_the_figures() -> None:
    from matplotlib.figure import Figure

    figures = {"exact_match": 0.25, "bleu": 50.0, "rouge1": 1.0, "rouge2": 0.0, "rougeL": 0.5}
    axes = Figure().subplots()
    picture.draw_bars(axes, Result("m", "t", "generation", 4, figures), 4)
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.5, 1.0, 0.0, 0.5]
    assert [text.get_text() for text in axes.texts] == ["0.250", "50.000", "1.000", "0.000", "0.500"]


def test_a_figure_past_every_number_is_drawn_and_is_null_in_json(tmp_path: Path) -> None:
    result = Result("m", "t", "perplexity", 1, metrics.perplexity(-1e6, 1, 2))
    report.write_png(result, tmp_path / "report.png")
    shown = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert shown["metrics"]["perplexity"] is None and "confusion" not in shown


def test_the_tables_hold_every_figure() -> None:
    console = Console(width=200)
    with console.capture() as drawn:
        for table in report.tables(_result(("[bold]x", "退货"))):
            console.print(table)
    text = drawn.get()
    assert "n = 5" in text and "macro F1" in text and "[bold]x" in text and "退货" in text


def test_a_picture_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "report.pdf", "doesn't end in .png"),
        (tmp_path / "no" / "report.png", "there is no such folder"),
        (tmp_path, "doesn't end in .png"),
    ]:
        with pytest.raises(InvalidRequest, match=message):
            report.check_out(path)
    report.check_out(tmp_path / "report.png")
    assert list(tmp_path.iterdir()) == []


def test_json_is_plain(classifier: LLM, tmp_path: Path) -> None:
    rows = [{"text": f"text {label}", "label": label} for label in LABELS]
    result = evaluate(classifier, read(task_file(tmp_path, rows)))
    shown = json.loads(json.dumps(result.as_json()))
    assert shown["n"] == 3 and shown["kind"] == "classification" and set(shown["metrics"]) == {
        "accuracy", "macro_f1", "micro_f1",
    }  # fmt: skip
    assert [sum(row) for row in shown["confusion"]] == [row["support"] for row in shown["classes"]]
    assert evaluate(classifier, read(task_file(tmp_path, rows))) == replace(result)
