"""`kelm pretrain RECIPE`: from a page of YAML to a folder with a model.

    corpus -> tokenizer -> packed rows -> steps (checkpoints) -> export -> held-out measures -> PROVENANCE.json

Every stage is a pure function of the recipe, so that a run killed anywhere goes on to the same model."""

from __future__ import annotations

import itertools
import platform
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Tokenizer

from kelm.clock import SYSTEM
from kelm.tune import bpe, corpus, documents, provenance
from kelm.tune.bits import bits_per_byte
from kelm.tune.corpus import Corpus
from kelm.tune.decoder import Decoder
from kelm.tune.documents import Document
from kelm.tune.export import export
from kelm.tune.kneser_ney import KneserNey
from kelm.tune.packing import pack
from kelm.tune.progress import View, write_curve
from kelm.tune.recipe import Recipe, load
from kelm.tune.trainer import Hooks, Trainer

BASELINE_ORDER = 5
BASELINE_DOCUMENTS = 400_000


@dataclass(frozen=True)
class Result:
    """A finished run, or one that was interrupted and can be continued (``folder`` is None)."""

    name: str
    folder: Path | None
    step: int


def pretrain(
    recipe_path: Path, out: Path | None = None, *, fresh: bool = False, console: Console | None = None
) -> Result:
    """Train the recipe's model and write it to ``out`` (default: ``model`` in the run's folder, ``.run/NAME`` beside
    the recipe); continues an interrupted run unless ``fresh``.

    Ctrl-C ends it after the current step, at a checkpoint. Raises ConfigError for a bad recipe or generator."""
    console = console or Console(stderr=True)
    recipe = load(recipe_path)
    run = recipe.folder / ".run" / recipe.name
    if fresh:
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    console.print(f"recipe {recipe.name}  {recipe.digest[:12]}", highlight=False)
    made = corpus.make(recipe, run)
    tokenizer = _tokenizer(recipe, made)
    encoder = documents.Encoder(tokenizer, recipe.train.prompt_loss)
    train = encoder.encode(list(documents.read(made.train)))
    trainer = Trainer(recipe, pack(train, recipe.train.row_tokens), tokenizer.get_vocab_size(), run, SYSTEM)
    tokens = sum(len(document.ids) for document in train)
    parameters = sum(p.numel() for p in trainer.decoder.parameters())
    console.print(f"{len(train):,} documents, {tokens:,} tokens; {parameters:,} parameters", highlight=False)
    with _interruptible() as stop, View(console, recipe.train.steps) as view:
        finished = trainer.run(Hooks(after_step=view.show, stop=lambda: bool(stop)))
    write_curve(run / "curve.csv", trainer.progress.curve)
    if not finished:
        console.print(f"stopped at step {trainer.progress.step}; the same command goes on from here", highlight=False)
        return Result(recipe.name, None, trainer.progress.step)
    out = out or run / "model"
    export(out, recipe, trainer.decoder, tokenizer)
    heldout = encoder.encode(list(documents.read(made.heldout)))
    measures = _measures(recipe, out, train, heldout, tokenizer.get_vocab_size())
    facts = {"documents": len(train), "tokens": tokens, "parameters": parameters, **measures}
    provenance.write(out, recipe, made, trainer.progress, facts | _machine())
    console.print(f"held-out bits per byte {measures['heldout_bits_per_byte']:.4f}, "
                  f"{BASELINE_ORDER}-gram Kneser-Ney {measures['kneser_ney_bits_per_byte']:.4f}")  # fmt: skip
    return Result(recipe.name, out, trainer.progress.step)


def _tokenizer(recipe: Recipe, made: Corpus) -> Tokenizer:
    some = itertools.islice(documents.read(made.train), recipe.tokenizer.documents)
    return bpe.train((content for parts in some for _, content in parts), recipe.tokenizer.vocab_size)


def _measures(
    recipe: Recipe, out: Path, train: list[Document], heldout: list[Document], vocab: int
) -> dict[str, float]:
    """Of the exported weights, as they will be served."""
    decoder = Decoder(recipe.model, vocab)
    decoder.load_state_dict({name: value.float() for name, value in load_file(out / "model.safetensors").items()})
    baseline = KneserNey(train[:BASELINE_DOCUMENTS], vocab, BASELINE_ORDER)
    return {
        "heldout_bits_per_byte": bits_per_byte(decoder, heldout, recipe.train.row_tokens),
        "kneser_ney_bits_per_byte": baseline.bits_per_byte(heldout),
    }


def _machine() -> dict[str, object]:
    return {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that fills when Ctrl-C is pressed; a second Ctrl-C interrupts at once."""
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
