"""How an answer was made: stored with it, shown beside it, and read by the person who takes over."""

from __future__ import annotations

from typing import Literal

import msgspec

Route = Literal["template", "ask", "passages", "handover", "person"]
"""ask: the desk asks back for a slot. person: nothing was made, a person has the conversation."""
Why = Literal["asked_for", "nothing_found", "thumbs_down", "no_daemon", "no_answer"]
"""Of a hand-over. no_daemon: Kelm can't be reached; no_answer: it failed at this question."""


class Source(msgspec.Struct, frozen=True):
    """A passage, with the scores that brought it up (index.Hit)."""

    title: str
    heading: str
    url: str
    text: str
    fused: float
    coverage: float
    cosine: float | None
    bm25: float | None


class Made(msgspec.Struct, frozen=True, omit_defaults=True):
    """``confidence`` of the intent or of the best passage, ``threshold`` what it had to reach."""

    route: Route
    intent: str | None = None
    intent_confidence: float | None = None
    intent_threshold: float | None = None
    readable: bool = True
    """Whether the classifier knows the question's script; else its answer was not asked for."""
    slots: dict[str, str] = {}
    sources: list[Source] = []
    passage_confidence: float | None = None
    passage_threshold: float | None = None
    written_by: Literal["model", "passage"] | None = None
    left_out: int = 0
    """Sentences of the chat model that no passage supports."""
    why: Why | None = None


class Pending(msgspec.Struct, frozen=True):
    """A template that waits for a slot: the conversation's next message may fill it."""

    label: str
    slot: str
    values: dict[str, str]
    question: str
    language: str


class Reply(msgspec.Struct, frozen=True):
    """What the desk says next. A route of handover opens a ticket."""

    text: str
    made: Made
    pending: Pending | None = None
