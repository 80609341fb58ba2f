"""The step loop: rows in, one AdamW step out, a checkpoint now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kelm.clock import Clock
from kelm.tune import checkpoint
from kelm.tune.checkpoint import Point, Progress
from kelm.tune.decoder import Decoder
from kelm.tune.packing import Rows, batch_rows
from kelm.tune.recipe import Recipe
from kelm.tune.schedule import learning_rate


@dataclass(frozen=True)
class Hooks:
    """What the outside sees and says: called after every step; a true ``stop`` ends the run at a checkpoint."""

    after_step: Callable[[Point], None] = lambda point: None
    stop: Callable[[], bool] = lambda: False


class Trainer:
    """Owns a decoder and its optimizer while they are trained."""

    def __init__(self, recipe: Recipe, rows: Rows, vocab: int, folder: Path, clock: Clock) -> None:
        self._recipe, self._rows, self._folder, self._clock = recipe, rows, folder, clock
        torch.manual_seed(recipe.seed)
        self.decoder = Decoder(recipe.model, vocab, dropout=recipe.train.dropout)
        self.decoder.initialize(torch.Generator().manual_seed(recipe.seed))
        self._optimizer = _optimizer(self.decoder, recipe)
        self.progress = checkpoint.restore(folder, recipe.digest, self.decoder, self._optimizer) or Progress(0, [], 0.0)

    def run(self, hooks: Hooks) -> bool:
        """Train to the last step. True when it is reached, False when ``hooks.stop`` ended the run before;
        either way a checkpoint holds the state."""
        train = self._recipe.train
        self.decoder.train()
        while self.progress.step < train.steps:
            if hooks.stop():
                self._save()
                return False
            point = self._step()
            hooks.after_step(point)
            if point.step % train.checkpoint_every == 0 or point.step == train.steps:
                self._save()
        return True

    def _step(self) -> Point:
        train, step = self._recipe.train, self.progress.step
        start_s = self._clock.monotonic_s()
        rate = learning_rate(step, train)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.decoder.parameters(), train.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        took_s = max(1e-9, self._clock.monotonic_s() - start_s)
        point = Point(step + 1, float(loss.detach()), rate, train.batch_rows * train.row_tokens / took_s)
        self.progress.step += 1
        self.progress.seconds += took_s
        self.progress.curve.append(point)
        return point

    def _loss(self, step: int) -> Tensor:
        """Weighted mean of the cross-entropy of every next token, in nats."""
        train = self._recipe.train
        picked = batch_rows(len(self._rows), train.batch_rows, step, self._recipe.seed)
        ids, positions, segments, weights = (
            torch.from_numpy(array[picked])
            for array in (self._rows.ids, self._rows.positions, self._rows.segments, self._rows.weights)
        )
        ids = ids.long()
        wanted = weights[:, 1:] > 0  # [B, T - 1]
        with precision(train.precision):
            hidden = self.decoder.hidden(ids, positions, segments)[:, :-1]
            logits = functional.linear(hidden[wanted], self.decoder.model.embed_tokens.weight)
        loss = functional.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
        weight = weights[:, 1:][wanted]
        return (loss * weight).sum() / weight.sum()

    def _save(self) -> None:
        checkpoint.save(self._folder, self._recipe.digest, self.progress, self.decoder, self._optimizer)


def precision(name: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 runs matrix products in bf16 over float32 masters (autocast); measured on a Zen 5 with two cores it
    is twice as fast as float32, and as fast as a pure bf16 model with separate masters."""
    return torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else contextlib.nullcontext()


def _optimizer(decoder: Decoder, recipe: Recipe) -> torch.optim.AdamW:
    """Weight decay on matrices only: norms are scales, to be left alone."""
    train = recipe.train
    matrices = [p for p in decoder.parameters() if p.dim() > 1]
    scales = [p for p in decoder.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": scales, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(train.beta1, train.beta2), fused=True)
