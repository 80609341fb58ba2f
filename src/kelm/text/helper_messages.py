"""What a text helper is asked and answers; framed by kelm.wire.framing."""

from __future__ import annotations

from typing import Any

import msgspec


class Open(msgspec.Struct, frozen=True, tag=True):
    """Read a checkpoint's tokenizer, template and config for the first time. Answered by Opened."""

    files: dict[str, str]


class Render(msgspec.Struct, frozen=True, tag=True):
    """Messages to token ids. Answered by Ids."""

    files: dict[str, str]
    messages: list[Any]
    tools: list[Any] | None
    documents: list[Any] | None
    add_generation_prompt: bool
    options: dict[str, Any]


class Compile(msgspec.Struct, frozen=True, tag=True):
    """See whether a grammar compiles. Answered by Compiled."""

    files: dict[str, str]
    grammar: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """First message of a helper, before it is asked anything."""


class Opened(msgspec.Struct, frozen=True, tag=True):
    vocab_size: int
    eos_ids: list[int]
    chats: bool
    """Whether there is a chat template, and it compiles."""


class Ids(msgspec.Struct, frozen=True, tag=True):
    ids: list[int]


class Compiled(msgspec.Struct, frozen=True, tag=True):
    pass


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The error of one call, to be raised again on the other side."""

    code: str
    message: str
    param: str | None = None
    spent: bool = False
    """The helper ran out of memory and is not to be asked again."""


Ask = Open | Render | Compile
Answer = Ready | Opened | Ids | Compiled | Refused
