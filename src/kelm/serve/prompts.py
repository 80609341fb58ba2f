"""From what a client sent to token ids that the model can take: inside vocabulary and context, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from kelm.errors import ContextTooLong, InvalidRequest
from kelm.serve.inputs import Prompt
from kelm.serve.messages import Message
from kelm.serve.ports import Kernel, Model
from kelm.text.chat import Chat

T = TypeVar("T")

_INLINE_CHARACTERS = 4096
"""A text this short is tokenized in less time than a thread's hand-over costs."""


async def off_loop(work: Callable[[], T], characters: int) -> T:
    """``work()``, in a thread when there is much text to go through."""
    return work() if characters <= _INLINE_CHARACTERS else await asyncio.to_thread(work)


async def tokenize(model: Model, prompt: Prompt, *, field: str, special: bool = True) -> list[int]:
    """Token ids of one input. Raises InvalidRequest for ids outside the vocabulary and for no tokens at all."""
    if isinstance(prompt, list):
        check_vocabulary(model, prompt, field)
        return prompt
    ids = await off_loop(lambda: model.tokenizer.encode(prompt, special), len(prompt))
    if not ids:
        raise InvalidRequest(f"{field} has no tokens; give at least one", param=field)
    return ids


async def render(kernel: Kernel, model: Model, messages: Sequence[Message], *, open_turn: bool = True) -> list[int]:
    """Messages through the model's chat template, in the killable helper. ``open_turn``: begin the answer."""
    return await kernel.helper.render_chat(model.files, Chat(messages=messages, add_generation_prompt=open_turn))


async def tokenize_all(model: Model, prompts: Sequence[Prompt], *, field: str) -> list[list[int]]:
    """Every input for an encoder task, each inside the model's context."""
    inputs = [await tokenize(model, prompt, field=field) for prompt in prompts]
    for ids in inputs:
        check_context(model, len(ids), field)
    return inputs


def check_vocabulary(model: Model, ids: Sequence[int], field: str) -> None:
    if ids and max(ids) >= model.info.vocab:
        raise InvalidRequest(
            f"{field} holds the token id {max(ids)}, which is outside the vocabulary of {model.info.vocab}",
            param=field,
        )


def check_context(model: Model, tokens: int, field: str) -> None:
    """An input of an encoder task, OpenAI's wording."""
    most = model.info.max_context_tokens
    if tokens > most:
        raise ContextTooLong(
            f"This model's maximum context length is {most} tokens, however you requested {tokens} tokens "
            f"({tokens} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
            param=field,
        )


def room(model: Model, prompt_tokens: int, wanted: int | None, default: int | None, field: str) -> int:
    """How many tokens may be generated: ``wanted``, else ``default`` as far as it fits, else the rest of the context.

    Raises ContextTooLong, in OpenAI's wording, when prompt and answer don't fit.
    """
    most = model.info.max_context_tokens
    rest = most - prompt_tokens
    answer = wanted if wanted is not None else min(rest, default if default is not None else rest)
    if answer > rest or (wanted is None and answer <= 0):
        answer = max(answer, 1)
        raise ContextTooLong(
            f"This model's maximum context length is {most} tokens. However, you requested "
            f"{prompt_tokens + answer} tokens ({prompt_tokens} in the {field}, {answer} in the completion). "
            f"Please reduce the length of the {field} or completion.",
            param=field,
        )
    return answer
