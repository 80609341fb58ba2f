"""An encoder that learns labels: LoRA on its body, its head as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kelm.evaluate import metrics
from kelm.evaluate.metrics import Classification
from kelm.models.encoder_families import ENCODER_FAMILIES
from kelm.models.hf_folder import build_classifier
from kelm.tune import adapter
from kelm.tune.base import CONFIG, Base, micro_batches
from kelm.tune.data import Data, Example
from kelm.tune.loop import Measure
from kelm.tune.methods import Plan


@dataclass(frozen=True, slots=True)
class Item:
    ids: list[int]
    label: int


class Classifier:
    """A loop.Learner. ``cut``: texts that were longer than the model reads, in both parts."""

    def __init__(self, base: Base, data: Data, parts: tuple[list[Example], list[Example]], plan: Plan) -> None:
        self.labels = data.labels
        self.cut = 0
        self._base = base
        self._train, self._heldout = ([self._item(example) for example in part] for part in parts)
        self._pad = int(base.config.get("pad_token_id") or 0)
        head = ENCODER_FAMILIES[base.config["model_type"]].layout.heads["classify"]
        whole = [name.removeprefix("*") for name in (head.dense, head.last) if name]
        torch.manual_seed(plan.seed)
        self.model = adapter.put_on(build_classifier(base.files, self.config()), plan.rank, plan.dropout, whole)

    def __len__(self) -> int:
        return len(self._train)

    def config(self) -> dict[str, Any]:
        """config.json of the classifier."""
        family = ENCODER_FAMILIES[self._base.config["model_type"]]
        kept = {name: value for name, value in self._base.config.items() if name not in ("auto_map", "num_labels")}
        return {
            **kept,
            "architectures": [f"{family.name}ForSequenceClassification"],
            "id2label": {str(i): label for i, label in enumerate(self.labels)},
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def overrides(self, folder: Path) -> dict[str, Path]:
        """Files that stand in for the base's, written into ``folder``."""
        path = folder / CONFIG
        path.write_text(json.dumps(self.config(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return {CONFIG: path}

    def backward(self, picked: Sequence[int]) -> float:
        items = [self._train[i] for i in picked]
        total = 0.0
        for piece in micro_batches([len(item.ids) for item in items]):
            loss = self._losses(items[piece]).sum() / len(items)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def measure(self) -> Measure:
        loss, report = self.report()
        return Measure(loss, {"accuracy": report.accuracy, "macro_f1": report.macro_f1})

    @torch.no_grad()
    def report(self) -> tuple[float, Classification]:
        """Mean loss of the held-out part, and what was given for what."""
        self.model.eval()
        loss, given = 0.0, []
        for piece in micro_batches([len(item.ids) for item in self._heldout]):
            items = self._heldout[piece]
            logits = self._logits(items)
            loss += float(functional.cross_entropy(logits, _wanted(items), reduction="sum"))
            given += logits.argmax(1).tolist()
        right = [self.labels[item.label] for item in self._heldout]
        figures = metrics.classification(right, [self.labels[i] for i in given], self.labels)
        return loss / len(self._heldout), figures

    def _item(self, example: Example) -> Item:
        ids = self._base.tokenizer.encode(example.text)
        most = self._base.most_tokens
        if len(ids) > most:  # what ends a text (SEP) ends a cut one
            self.cut += 1
            ids = [*ids[: most - 1], ids[-1]]
        return Item(ids, self.labels.index(example.label))

    def _losses(self, items: Sequence[Item]) -> Tensor:
        return functional.cross_entropy(self._logits(items), _wanted(items), reduction="none")

    def _logits(self, items: Sequence[Item]) -> Tensor:
        """[items, labels]"""
        longest = max(len(item.ids) for item in items)
        ids = torch.full((len(items), longest), self._pad)
        mask = torch.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
            mask[row, : len(item.ids)] = 1
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits.float()


def _wanted(items: Sequence[Item]) -> Tensor:
    return torch.tensor([item.label for item in items])
