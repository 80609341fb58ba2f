"""A run that is stopped, killed or torn at any step ends with the very bits of one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from kelm.clock import SYSTEM
from kelm.errors import ConfigError
from kelm.tune import documents
from kelm.tune.bpe import train
from kelm.tune.checkpoint import Point
from kelm.tune.packing import Rows, pack
from kelm.tune.pretrain import pretrain
from kelm.tune.recipe import Recipe, load
from kelm.tune.trainer import Hooks, Trainer

STEPS = 7
RECIPE = {
    "name": "tiny",
    "data": {"files": "train.jsonl", "heldout_files": "heldout.jsonl"},
    "tokenizer": {"vocab_size": 320},
    "model": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    "train": {
        "steps": STEPS,
        "batch_rows": 2,
        "row_tokens": 48,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "dropout": 0.2,
        "prompt_loss": 0.5,
        "checkpoint_every": 2,
    },
}


def folder_with_recipe(folder: Path, **train_keys: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 40), ("heldout", 5)):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"what is {i}?"},
                    {"role": "assistant", "content": f"{i} 是数字。"},
                ]
            }
            for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {**RECIPE, "train": {**RECIPE["train"], **train_keys}}  # type: ignore[dict-item]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def prepared(path: Path) -> tuple[Recipe, Rows, int]:
    recipe = load(path)
    found = list(documents.read([path.parent / "train.jsonl"]))
    tokenizer = train((text for parts in found for _, text in parts), recipe.tokenizer.vocab_size)
    rows = pack(documents.Encoder(tokenizer, recipe.train.prompt_loss).encode(found), recipe.train.row_tokens)
    return recipe, rows, tokenizer.get_vocab_size()


def after(trainer: Trainer) -> tuple[dict[str, torch.Tensor], list[float]]:
    return dict(trainer.decoder.state_dict()), [point.loss for point in trainer.progress.curve]


@pytest.mark.parametrize("stop_at", range(STEPS))
def test_stopped_at_any_step_and_resumed_is_bit_identical(tmp_path: Path, stop_at: int) -> None:
    recipe, rows, vocab = prepared(folder_with_recipe(tmp_path))
    whole = Trainer(recipe, rows, vocab, tmp_path / "whole", SYSTEM)
    assert whole.run(Hooks())
    seen: list[Point] = []
    first = Trainer(recipe, rows, vocab, tmp_path / "parts", SYSTEM)
    assert not first.run(Hooks(after_step=seen.append, stop=lambda: len(seen) == stop_at))
    torch.manual_seed(99)  # a new process: nothing of the old one's chance is left
    second = Trainer(recipe, rows, vocab, tmp_path / "parts", SYSTEM)
    assert second.progress.step == stop_at
    assert second.run(Hooks())
    (weights, losses), (expected, expected_losses) = after(second), after(whole)
    assert losses == expected_losses
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_a_torn_checkpoint_is_never_read(tmp_path: Path) -> None:
    recipe, rows, vocab = prepared(folder_with_recipe(tmp_path))
    run = tmp_path / "run"
    assert Trainer(recipe, rows, vocab, run, SYSTEM).run(Hooks())
    torn = run / ".step-00000099.tmp"
    torn.mkdir()
    (torn / "state.json").write_text("{")
    assert Trainer(recipe, rows, vocab, run, SYSTEM).progress.step == STEPS
    assert sorted(path.name for path in run.glob("step-*")) == ["step-00000006", "step-00000007"]


def test_a_changed_recipe_does_not_continue_an_old_run(tmp_path: Path) -> None:
    recipe, rows, vocab = prepared(folder_with_recipe(tmp_path))
    assert Trainer(recipe, rows, vocab, tmp_path / "run", SYSTEM).run(Hooks())
    other, rows, vocab = prepared(folder_with_recipe(tmp_path, learning_rate=0.02))
    with pytest.raises(ConfigError, match="another version of the recipe"):
        Trainer(other, rows, vocab, tmp_path / "run", SYSTEM)


COMMAND = """
import sys
from pathlib import Path
from rich.console import Console
from kelm.tune.pretrain import pretrain
print(pretrain(Path(sys.argv[1]), Path(sys.argv[2]), console=Console(file=sys.stderr)).step)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_goes_on_to_the_same_model(tmp_path: Path, number: signal.Signals) -> None:
    steps = 60
    quiet = Console(quiet=True)
    whole, broken = (folder_with_recipe(tmp_path / name, steps=steps) for name in ("whole", "broken"))
    assert pretrain(whole, tmp_path / "expected", console=quiet).step == steps

    command = [sys.executable, "-c", COMMAND, str(broken), str(tmp_path / "made")]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not list((broken.parent / ".run" / "tiny").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert process.returncode == 0
        assert 0 < int(said) < steps, "Ctrl-C ends the run early, at a checkpoint"
        assert (broken.parent / ".run" / "tiny" / "curve.csv").read_text().count("\n") == int(said) + 1
    else:
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "made").exists()

    assert pretrain(broken, tmp_path / "made", console=quiet).step == steps
    expected, made = (load_file(tmp_path / name / "model.safetensors") for name in ("expected", "made"))
    for name, tensor in expected.items():
        assert torch.equal(made[name], tensor), name
    provenance = json.loads((tmp_path / "made" / "PROVENANCE.json").read_text())
    assert provenance["steps"] == steps
    assert provenance["heldout_bits_per_byte"] > 0
