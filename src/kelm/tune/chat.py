"""A decoder that learns conversations: LoRA, the loss on what the assistant says, through the model's own template.

Each answer is an example of its own, with the prompt that the model will be given for it when it is served:

    ids      <prompt: the template over the messages before, up to the assistant's turn> <answer> <end>
    loss     -                                                                           x        x
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kelm.errors import InvalidRequest
from kelm.models.hf_folder import build_model
from kelm.text import chat
from kelm.text.grammar import FILE as GRAMMAR
from kelm.text.tokenizer import Tokenizer
from kelm.tune import adapter
from kelm.tune.base import Base, micro_batches
from kelm.tune.data import Conversation, Data
from kelm.tune.loop import Measure
from kelm.tune.methods import Plan


@dataclass(frozen=True, slots=True)
class Answer:
    """``ids[prompt:]`` is what is learnt."""

    ids: list[int]
    prompt: int


class Chats:
    """A loop.Learner. ``cut``: answers whose prompt or text was longer than what is taught."""

    def __init__(
        self, base: Base, data: Data, parts: tuple[list[Conversation], list[Conversation]], plan: Plan
    ) -> None:
        self._base, self._data = base, data
        self.cut = 0
        self._train, self._heldout = ([each for chat in part for each in self._answers(chat)] for part in parts)
        torch.manual_seed(plan.seed)
        self.model = adapter.put_on(build_model(base.files, "float32"), plan.rank, plan.dropout)

    def __len__(self) -> int:
        return len(self._train)

    @property
    def holds_out(self) -> bool:
        return bool(self._heldout)

    def overrides(self, folder: Path) -> dict[str, Path]:
        """Files that stand in for the base's: it has learnt other answers than its base's grammar allows."""
        if GRAMMAR not in self._base.files:
            return {}
        (folder / GRAMMAR).write_bytes(b"")
        return {GRAMMAR: folder / GRAMMAR}

    def backward(self, picked: Sequence[int]) -> float:
        answers = [self._train[i] for i in picked]
        tokens = sum(len(answer.ids) - answer.prompt for answer in answers)
        total = 0.0
        for piece in micro_batches([len(answer.ids) for answer in answers]):
            loss = self._loss(answers[piece]) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def measure(self) -> Measure:
        """Mean loss of a token of the held-out answers; of the taught ones where none are held out."""
        self.model.eval()
        answers = self._heldout or self._train
        tokens = sum(len(answer.ids) - answer.prompt for answer in answers)
        pieces = micro_batches([len(answer.ids) for answer in answers])
        return Measure(sum(float(self._loss(answers[piece])) for piece in pieces) / tokens)

    def _loss(self, answers: Sequence[Answer]) -> Tensor:
        """Summed over the tokens that are learnt, in nats."""
        longest = max(len(answer.ids) for answer in answers)
        ids = torch.zeros((len(answers), longest), dtype=torch.long)
        mask, wanted = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, answer in enumerate(answers):
            made = torch.tensor(answer.ids)
            ids[row, : len(made)], mask[row, : len(made)] = made, 1
            wanted[row, answer.prompt : len(made)] = made[answer.prompt :]
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        learnt = wanted[:, 1:] >= 0
        return functional.cross_entropy(logits[learnt].float(), wanted[:, 1:][learnt], reduction="sum")

    def _answers(self, conversation: Conversation) -> list[Answer]:
        at = f"{self._data.name}:{conversation.line}"
        turns = [i for i, m in enumerate(conversation.messages) if i and m["role"] == "assistant"]
        try:
            made = [answer_of(self._base.tokenizer, conversation.messages[: turn + 1]) for turn in turns]
        except InvalidRequest as error:
            raise type(error)(f"{at}: {error.message}", param=error.param) from None
        return [self._fitted(answer) for answer in made]

    def _fitted(self, answer: Answer) -> Answer:
        """The end of the prompt, and as much of the answer as fits behind at least one token of it."""
        most = self._base.most_tokens
        over = len(answer.ids) - most
        if over <= 0:
            return answer
        self.cut += 1
        dropped = min(over, answer.prompt - 1)
        return Answer(answer.ids[dropped : dropped + most], answer.prompt - dropped)


def answer_of(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> Answer:
    """The last message, an assistant's, behind the prompt that it answers, up to the token that ends it.

    A template that shows the last messages only may begin elsewhere once the answer is there: then the answer is its
    text and the end token.
    """
    prompt = chat.render(tokenizer, chat.Chat(messages=messages[:-1]))
    whole = chat.render(tokenizer, chat.Chat(messages=messages, add_generation_prompt=False))
    if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
        answer = whole[len(prompt) :]
    else:
        answer = tokenizer.encode_parts([str(messages[-1].get("content") or "")])
    ends = [i for i, token in enumerate(answer) if token in tokenizer.eos_ids]
    if ends:
        answer = answer[: ends[-1] + 1]
    elif tokenizer.eos_ids:
        answer = [*answer, tokenizer.eos_ids[0]]
    return Answer([*prompt, *answer], len(prompt))
