"""Typed requests: what serve/ (and the library) hands to the kernel after every check, and what comes back."""

from __future__ import annotations

from typing import Literal

import msgspec

from kelm.wire.messages import FinishReason, Sampling, TokenLogprobs

EncodingTask = Literal["embed", "classify", "token_classify", "fill_mask"]
RequestTask = Literal["generate"] | EncodingTask


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request before its model is there."""

    request_id: str
    model: str
    """A name as the user gave it."""
    task: RequestTask
    tenant: str = "local"
    priority: int = 0


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, ``n`` choices, already tokenized."""

    request_id: str
    model: str
    """A name as the user gave it; resolved by the kernel."""
    prompt: list[int]
    sampling: Sampling
    n: int = 1
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    tenant: str = "local"
    priority: int = 0
    """Lower is earlier."""
    pid: int | None = None
    """Of the arrival in whose place it comes, if there is one."""
    stream: bool = False


class Encoding(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of inputs for an encoder task, already tokenized."""

    request_id: str
    model: str
    task: EncodingTask
    inputs: list[list[int]]
    types: list[list[int]] = []
    normalize: bool = True
    tenant: str = "local"
    priority: int = 0
    pid: int | None = None
    """As in Generation, both."""


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one choice may show after one step. Stop strings and split characters are already held back.

    ``ids`` and ``logprobs`` are those of the tokens whose text has been released up to here."""

    choice: int
    text: str
    ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    offsets: list[int] = []
    """For each id, the index in the choice's whole text of its first character."""
    finish: FinishReason | None = None
    stop: str | int | None = None
    """The stop string or token id that ended it."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """Once for a process, with its first chunk."""
