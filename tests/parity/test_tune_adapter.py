"""What a job has measured is what is served, and what it writes is what peft writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from parity_kit import Arena, step
from safetensors.torch import load_file

from kelm.clock import SYSTEM
from kelm.models.loader import Model, load
from kelm.models.variant import lay_over
from kelm.store import Store
from kelm.tune import adapter, data, split
from kelm.tune.base import open_base
from kelm.tune.chat import Chats
from kelm.tune.classifier import Classifier
from kelm.tune.loop import Hooks, Loop
from kelm.tune.methods import plan
from kelm.wire.messages import Encode
from tune_kit import chats, intents, make_store, spec

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's and transformers' own, of one another


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_store(tmp_path_factory.mktemp("tune"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def classifier(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    base, read = open_base(store, "emb"), data.read(intents(), "x.csv")
    parts = split.split_examples(read.examples, 1)
    made = plan(read.kind, spec("emb", "x.csv", epochs=6), len(parts[0]), base.width)
    learner = Classifier(base, read, parts, made)
    Loop(learner, made, tmp_path_factory.mktemp("run"), SYSTEM).run(Hooks())
    learner.model.eval()
    return learner


@pytest.fixture(scope="module")
def talker(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Chats:
    base, read = open_base(store, "toy"), data.read(chats(), "x.jsonl")
    parts = split.split_chats(read.conversations, 1)
    made = plan(read.kind, spec("toy", "x.jsonl", epochs=20), len(parts[0]), base.width)
    learner = Chats(base, read, parts, made)
    Loop(learner, made, tmp_path_factory.mktemp("run"), SYSTEM).run(Hooks())
    learner.model.eval()
    return learner


def served(store: Store, name: str) -> Model:
    model = store.resolve(name)
    base = store.paths(model.base)
    return lay_over(load(base, "float32"), base, store.paths(model), store.layer_paths(model)).make(None)


@torch.no_grad()
def test_a_tuned_classifier_is_served_with_its_numbers(store: Store, classifier: Classifier, tmp_path: Path) -> None:
    folder = adapter.write(classifier.model, tmp_path / "adapter")
    store.add_version("emb", "mood", layer=folder, overrides=classifier.overrides(folder), parent=0)
    model = served(store, "emb@mood")
    assert "classify" in model.info.tasks and model.info.labels == ("greeting", "parting", "thanks")
    items = classifier._heldout
    theirs = torch.softmax(classifier._logits(items), -1).numpy()
    mine = np.stack(model.run(Encode(pid=1, model="m", task="classify", inputs=[item.ids for item in items])))
    assert np.abs(mine - theirs).max() < 1e-4
    assert theirs.max() - theirs.min() > 0.5, "the classifier says the same of everything: the test could not fail"


@torch.no_grad()
def test_a_tuned_decoder_is_served_with_its_numbers(store: Store, talker: Chats, tmp_path: Path) -> None:
    folder = adapter.write(talker.model, tmp_path / "adapter")
    store.add_version("toy", "facts", layer=folder, overrides=talker.overrides(folder), parent=0)
    model = served(store, "toy@facts")
    arena = Arena(model.groups, 2000)
    model.attach(arena.kv)
    ids = talker._train[0].ids
    theirs = talker.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    mine = step(model, arena, {0: (ids, 0)})
    assert np.abs(mine - theirs).max() < 1e-3 * theirs.std()


def test_what_is_written_is_what_peft_writes(classifier: Classifier, tmp_path: Path) -> None:
    ours = adapter.write(classifier.model, tmp_path / "ours")
    classifier.model.save_pretrained(tmp_path / "theirs")
    mine, theirs = (load_file(path / adapter.WEIGHTS) for path in (ours, tmp_path / "theirs"))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)
    told, wanted = (json.loads((path / adapter.CONFIG).read_text()) for path in (ours, tmp_path / "theirs"))
    for settings in (told, wanted):
        settings["target_modules"].sort()
        settings.pop("base_model_name_or_path")
        settings.pop("auto_mapping", None)
        settings.pop("peft_version", None)
    assert told == wanted
    assert any("classifier" in name for name in mine) and any("pooler" in name for name in mine)


def test_peft_reads_it_back(store: Store, talker: Chats, tmp_path: Path) -> None:
    from kelm.models.hf_folder import build_model

    folder = adapter.write(talker.model, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(build_model(store.paths(store.resolve("toy")), "float32"), folder).eval()
    ids = torch.tensor([talker._train[0].ids])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, talker.model(input_ids=ids).logits)


@torch.no_grad()
def test_only_what_the_assistant_says_is_learnt(talker: Chats) -> None:
    """The loss against one by hand, a token at a time, in company and alone."""
    answers = talker._train[:3]
    wanted = 0.0
    for answer in answers:
        logprobs = torch.log_softmax(talker.model(input_ids=torch.tensor([answer.ids])).logits[0].float(), -1)
        wanted -= sum(float(logprobs[i - 1, answer.ids[i]]) for i in range(answer.prompt, len(answer.ids)))
    assert float(talker._loss(answers)) == pytest.approx(wanted, rel=1e-4)


def test_the_body_learns_through_low_rank_and_the_head_as_a_whole(classifier: Classifier, talker: Chats) -> None:
    trained = adapter.trained(classifier.model)
    assert all(".lora_" in name or ".modules_to_save." in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 6, "six linears in each of two layers"
    assert not any("lm_head" in name or "embed" in name for name in adapter.trained(talker.model))
