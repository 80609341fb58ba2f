"""The job of `kelm tune` from data to version, in this process: what it says, refuses, and leaves behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from daemon_kit import write_llama
from kelm.clock import SYSTEM
from kelm.errors import Cancelled, InvalidRequest, ModelNotFound, OutOfMemory, StoreError, UnsupportedModel
from kelm.store import Store
from kelm.text.grammar import FILE as GRAMMAR
from kelm.tune import checkpoint, data, split
from kelm.tune.base import open_base
from kelm.tune.classifier import Classifier
from kelm.tune.job import run
from kelm.tune.loop import Hooks, Loop
from kelm.tune.methods import plan
from tune_kit import Told, chats, context, intents, make_store, spec, weights_digest

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's and transformers' own, of one another


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def test_labels_that_words_tell_are_learnt(store: Store) -> None:
    told = Told()
    made = context(store, intents(12), told)
    result = run(spec("emb", "intents.csv", variant="mood"), made)
    assert result["model"] == "emb@mood" and result["version"] == 1
    assert result["evaluation"]["accuracy"] > 0.8 and result["examples"] == {"taught": 30, "held_out": 6, "cut": 0}
    assert [row["label"] for row in result["classes"]] == ["greeting", "parting", "thanks"]
    assert sum(row["support"] for row in result["classes"]) == 6
    version = store.history("emb@mood").version(1)
    assert version.parent == 0 and version.kind == "low_rank" and store.history("emb@mood").current == 1
    assert version.evaluation == result["evaluation"] and version.settings["seed"] == 1
    assert version.data_digest == data.read(intents(12), "x.csv").digest
    assert "emb@mood has version 1, published" in told.text and "6 held out" in told.text
    assert (told.progress[-1].done, told.progress[-1].note) == (told.progress[-1].total, f"{result['epochs']} epochs")
    rows = list(csv.DictReader((made.folder / "curve.csv").read_text().splitlines()))
    assert len(rows) == result["epochs"] and set(rows[0]) >= {"epoch", "train_loss", "heldout_loss", "accuracy"}
    assert (made.folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_answers_are_learnt_and_the_bases_grammar_is_dropped(store: Store, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "bound")
    (folder / GRAMMAR).write_text('start: "never this"\n')
    store.import_folder(folder, "bound")
    result = run(spec("bound", "chats.jsonl"), context(store, chats()))
    figures = result["evaluation"]
    assert figures["taught_loss"] < 0.2 < figures["taught_loss_before"] and figures["held_out"] == 0
    model = store.resolve("bound@v")
    assert Path(store.paths(model)[GRAMMAR]).read_bytes() == b""


def test_a_held_out_part_of_conversations_is_measured_before_and_after(store: Store) -> None:
    result = run(spec("toy", "chats.jsonl", epochs=3), context(store, chats(20)))
    figures = result["evaluation"]
    assert figures["heldout_loss"] < figures["heldout_loss_before"] and figures["held_out"] == 2


def test_the_same_data_and_seed_give_the_same_bits(store: Store) -> None:
    digests = []
    for number, seed in enumerate((1, 1, 2), 1):
        run(spec("emb", "x.csv", epochs=2, seed=seed), context(store, intents(), pid=number))
        digests.append(weights_digest(store, "emb@v"))
    assert digests[0] == digests[1] != digests[2]


def test_a_job_that_is_run_again_adds_no_second_version(store: Store) -> None:
    made = spec("emb", "x.csv", epochs=1)
    first, again = run(made, context(store, intents())), run(made, context(store, intents()))
    assert first["version"] == again["version"] == 1
    assert run(made, context(store, intents(), pid=8))["version"] == 2
    assert [version.parent for version in store.history("emb@v").versions] == [0, 0], "each from the base itself"


def test_long_texts_are_cut_and_counted(store: Store) -> None:
    told = Told()
    raw = intents() + b'"' + b"hello " * 600 + b'",greeting\n'
    result = run(spec("emb", "x.csv", epochs=1), context(store, raw, told))
    assert result["examples"]["cut"] == 1
    assert "1 texts were longer than 512 tokens and are cut to them" in told.text
    rows = [json.loads(line) for line in chats().splitlines()]
    rows[0]["messages"][0]["content"] = "so " * 600
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert run(spec("toy", "x.jsonl", epochs=1), context(store, raw))["examples"]["cut"] == 1


def test_a_cut_text_ends_as_every_text_does(store: Store) -> None:
    base, read = open_base(store, "emb"), data.read(intents() + b"hello " * 600 + b",greeting\n", "x.csv")
    parts = split.split_examples(read.examples, 1)
    learner = Classifier(base, read, parts, plan(read.kind, spec("emb", "x.csv"), len(parts[0]), base.width))
    ends = {item.ids[-1] for item in [*learner._train, *learner._heldout]}
    assert ends == {base.tokenizer.token_id("[SEP]")}
    assert max(len(item.ids) for item in [*learner._train, *learner._heldout]) == 512


def test_what_cannot_be_taught_is_refused_before_anything_is_made(store: Store, tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain")
    (plain / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    store.import_folder(plain, "plain")
    cases = [
        (spec("toy", "x.csv"), intents(), {}, UnsupportedModel, "toy is a decoder.*teach an encoder"),
        (spec("emb", "x.jsonl"), chats(), {}, UnsupportedModel, "emb is an encoder.*teach a decoder"),
        (spec("plain", "x.jsonl"), chats(), {}, InvalidRequest, "plain has no chat template"),
        (spec("embb", "x.csv"), intents(), {}, ModelNotFound, "did you mean emb"),
        (spec("emb@v", "x.csv"), intents(), {}, InvalidRequest, "tuned from its base, emb"),
        (spec("emb", "x.csv"), b"text\nhello\n", {}, InvalidRequest, "x.csv:1: no column is named label"),
        (spec("emb", "x.csv"), intents(), {"memory_bytes": 1 << 20}, OutOfMemory, "KELM_JOB_MEMORY"),
    ]
    for made, raw, more, error, words in cases:
        with pytest.raises(error, match=words):
            run(made, context(store, raw, **more))  # type: ignore[arg-type]
    with pytest.raises(ModelNotFound):
        store.history("emb@v")


def test_a_full_disk_leaves_the_version_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(spec("emb", "x.csv", epochs=1), context(store, intents(), pid=1))
    before = weights_digest(store, "emb@v")

    def full(*_: object, **__: object) -> None:
        raise StoreError("no space: free some")

    monkeypatch.setattr(Store, "check_space", full)
    with pytest.raises(StoreError, match="no space"):
        run(spec("emb", "x.csv", epochs=1, seed=3), context(store, intents(), pid=2))
    assert weights_digest(store, "emb@v") == before and len(store.history("emb@v").versions) == 1


def test_asked_to_stop_it_keeps_a_checkpoint_and_adds_nothing(store: Store) -> None:
    told = Told()
    asked = context(store, intents(), told, stopping=lambda: any("epoch 2" in line for line in told.lines))
    with pytest.raises(Cancelled):
        run(spec("emb", "x.csv", epochs=4), asked)
    with pytest.raises(ModelNotFound):
        store.history("emb@v")
    again = Told()
    run(spec("emb", "x.csv", epochs=4), context(store, intents(), again))
    assert "goes on from step" in again.text and "epoch 1:" not in again.text and "epoch 3:" in again.text


EPOCHS, PER_EPOCH = 3, 2


def loop(store: Store, folder: Path) -> Loop:
    base, read = open_base(store, "emb"), data.read(intents(), "x.csv")
    parts = split.split_examples(read.examples, 1)
    made = plan(read.kind, spec("emb", "x.csv", epochs=EPOCHS), len(parts[0]), base.width)
    assert (made.steps_per_epoch, made.dropout > 0) == (PER_EPOCH, True)
    return Loop(Classifier(base, read, parts, made), made, folder, SYSTEM)


def weights(made: Loop) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in made._trained.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, torch.Tensor], list[float]]:
    folder = tmp_path_factory.mktemp("whole")
    store = make_store(folder)
    made = loop(store, folder / "run")
    made.run(Hooks())
    return store, weights(made), [row.train_loss for row in made.state.curve]


@pytest.mark.parametrize("stop_at", range(1, EPOCHS * PER_EPOCH))
def test_stopped_at_any_step_and_resumed_it_ends_with_the_same_bits(
    whole: tuple[Store, dict[str, torch.Tensor], list[float]], tmp_path: Path, stop_at: int
) -> None:
    store, expected, losses = whole
    first = loop(store, tmp_path / "parts")
    with pytest.raises(Cancelled):
        first.run(Hooks(stopping=lambda: first.state.step == stop_at))
    torch.manual_seed(99)  # a new process: nothing of the old one's chance is left
    second = loop(store, tmp_path / "parts")
    assert second.state.step == stop_at
    second.run(Hooks())
    assert [row.train_loss for row in second.state.curve] == losses
    for name, tensor in weights(second).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_checkpoint_of_another_plan_is_not_gone_on_from(
    whole: tuple[Store, dict[str, torch.Tensor], list[float]], tmp_path: Path
) -> None:
    store = whole[0]
    first = loop(store, tmp_path / "run")
    with pytest.raises(Cancelled):
        first.run(Hooks(stopping=lambda: first.state.step == 3))
    state = checkpoint.newest(tmp_path / "run")
    assert state is not None
    path = state.folder / "state.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    assert loop(store, tmp_path / "run").state.step == 0
