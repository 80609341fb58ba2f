"""The loop of `kelm tune`: epochs of AdamW steps, the held-out part measured after each, the best epoch kept.

A run is a pure function of its plan and its learner: which examples a step takes follows from (seed, epoch), and a
checkpoint holds the rest (trained weights, the best ones so far, AdamW's averages, torch's generator). So a job that
was killed ends with the weights of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kelm.clock import Clock
from kelm.errors import Cancelled
from kelm.tune import adapter, checkpoint
from kelm.tune.methods import Plan, learning_rate

CHECKPOINT_S = 15.0
"""What a kill can cost; a checkpoint is written after every epoch too."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Of the held-out part: a mean loss, lower is better, and what else is worth telling. ``macro_f1`` among the
    figures, higher is better, comes before the loss, which rises already when a model is only too sure."""

    loss: float
    figures: Mapping[str, float] = field(default_factory=dict)


class Learner(Protocol):
    """A model and what it is taught."""

    model: Any
    """Wrapped by peft."""

    def __len__(self) -> int:
        """Examples of an epoch."""
        ...

    def backward(self, picked: Sequence[int]) -> float:
        """Add the gradient of the mean loss of these examples; the loss."""
        ...

    def measure(self) -> Measure:
        """Of the held-out part, without dropout. Leaves torch's generator as it was."""
        ...


@dataclass(slots=True)
class Row:
    """An epoch on the curve. Losses are means, in nats."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    heldout_loss: float
    figures: dict[str, float]


@dataclass(slots=True)
class State:
    """Of a run, beside its tensors."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    """Of the steps of this epoch."""
    curve: list[Row] = field(default_factory=list)
    best: int = 0
    """The epoch (from 1) whose weights are kept; 0: none yet."""
    over: bool = False


@dataclass(frozen=True)
class Hooks:
    """What the outside sees and says."""

    after_step: Callable[[State], None] = lambda state: None
    after_epoch: Callable[[State], None] = lambda state: None
    stopping: Callable[[], bool] = lambda: False


class Loop:
    """``folder`` holds the checkpoints; the newest is gone on from."""

    def __init__(self, learner: Learner, plan: Plan, folder: Path, clock: Clock) -> None:
        self._learner, self._plan, self._folder, self._clock = learner, plan, folder, clock
        self._module: nn.Module = learner.model
        self._trained = adapter.trained(self._module)
        self._optimizer = torch.optim.AdamW(list(self._trained.values()), weight_decay=plan.weight_decay)
        self._best: dict[str, Tensor] = {}
        self.state = State()
        self._restore()
        self._saved_s = clock.monotonic_s()

    def run(self, hooks: Hooks) -> None:
        """To the end, or until the held-out part gets no better; the model has the best epoch's weights then.

        Raises Cancelled when ``hooks.stopping``, after a checkpoint.
        """
        while not self.state.over and self.state.step < self._plan.steps:
            if hooks.stopping():
                self._save()
                raise Cancelled("the job was asked to stop; its checkpoint is written")
            self._step()
            hooks.after_step(self.state)
            if self.state.step % self._plan.steps_per_epoch == 0:
                self._epoch_over()
                hooks.after_epoch(self.state)
                self._save()
            elif self._clock.monotonic_s() - self._saved_s > CHECKPOINT_S:
                self._save()
        self._load(self._best)

    def _step(self) -> None:
        plan, step = self._plan, self.state.step
        self._module.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        loss = self._learner.backward(self._picked(step))
        nn.utils.clip_grad_norm_(self._trained.values(), plan.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.state.losses.append(loss)
        self.state.step += 1

    def _picked(self, step: int) -> list[int]:
        plan = self._plan
        epoch, place = divmod(step, plan.steps_per_epoch)
        order = np.random.default_rng([plan.seed, epoch]).permutation(len(self._learner))
        picked: list[int] = order[place * plan.batch : (place + 1) * plan.batch].tolist()
        return picked

    def _epoch_over(self) -> None:
        state = self.state
        self._module.eval()
        measure = self._learner.measure()
        state.curve.append(
            Row(
                epoch=len(state.curve) + 1,
                step=state.step,
                learning_rate=learning_rate(state.step - 1, self._plan),
                train_loss=sum(state.losses) / len(state.losses),
                heldout_loss=measure.loss,
                figures=dict(measure.figures),
            )
        )
        state.losses.clear()
        if _is_best(state.curve, self._plan.tolerance):
            state.best = len(state.curve)
            self._best = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        learnt = state.curve[-1].train_loss < self._plan.enough
        state.over = learnt or len(state.curve) - state.best >= self._plan.patience

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._trained[name].copy_(tensor)

    def _save(self) -> None:
        weights = {name: parameter.detach() for name, parameter in self._trained.items()}
        tensors = {"weights": weights, "best": self._best}
        tensors["optimizer"] = checkpoint.optimizer_tensors(self._module, self._optimizer)
        checkpoint.write(self._folder, self.state.step, tensors, {"plan": asdict(self._plan), **asdict(self.state)})
        self._saved_s = self._clock.monotonic_s()

    def _restore(self) -> None:
        found = checkpoint.newest(self._folder)
        if found is None or found.state["plan"] != asdict(self._plan):
            return
        saved = {name: value for name, value in found.state.items() if name != "plan"}
        saved["curve"] = [Row(**row) for row in saved["curve"]]
        self.state = State(**saved)
        self._load(found.tensors("weights"))
        self._best = found.tensors("best")
        checkpoint.restore_optimizer(found.tensors("optimizer"), self._module, self._optimizer)


def _is_best(curve: Sequence[Row], tolerance: float) -> bool:
    """Whether the last epoch is to be kept."""
    last = curve[-1]
    f1 = last.figures.get("macro_f1", 0.0)
    if any(row.figures.get("macro_f1", 0.0) > f1 for row in curve):
        return False
    equals = [row.heldout_loss for row in curve if row.figures.get("macro_f1", 0.0) == f1]
    return last.heldout_loss <= min(equals) * (1 + tolerance)
