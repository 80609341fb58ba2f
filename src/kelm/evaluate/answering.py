"""Greedy answers to prompts and conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kelm.library import LLM, SamplingParams
from kelm.text import chat

Source = str | Sequence[Mapping[str, Any]]
"""A prompt as it stands, or a conversation's messages."""


def answers(llm: LLM, sources: Sequence[Source], max_tokens: int) -> list[str]:
    """One text for each, of at most ``max_tokens`` and of what the context leaves after the prompt (ContextTooLong
    where it leaves nothing)."""
    rooms = [min(max_tokens, max(1, llm.info.max_context_tokens - _length(llm, source))) for source in sources]
    prompts = [source for source in sources if isinstance(source, str)]
    if len(prompts) == len(sources) and len(set(rooms)) == 1:
        return [completion.text for completion in llm.generate(prompts, _greedy(rooms[0]))]
    return [_answer(llm, source, room) for source, room in zip(sources, rooms, strict=True)]


def _answer(llm: LLM, source: Source, room: int) -> str:
    made = llm.generate(source, _greedy(room)) if isinstance(source, str) else llm.chat(source, _greedy(room))
    return made[0].text


def _greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, seed=0, max_tokens=max_tokens)


def _length(llm: LLM, source: Source) -> int:
    if isinstance(source, str):
        return len(llm.tokenizer.encode(source))
    return len(chat.render(llm.tokenizer, chat.Chat(messages=source)))
