"""Which examples are held out: a pure function of the examples and the seed, whatever their order in the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from kelm.tune.data import Conversation, Example

SHARE = 0.2
"""Of each label's examples, at least one and never all."""
CHAT_SHARE = 0.1
LEAST_CHATS = 10
"""Of fewer conversations every one is taught: what one or two say about the rest is noise."""
MOST = 2000
"""A larger part measures no better, and is measured after every epoch."""


def split_examples(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """(to learn, held out), each label in both, in the file's order."""
    by_label: dict[str, list[Example]] = {}
    for example in examples:
        by_label.setdefault(example.label, []).append(example)
    share = min(SHARE, MOST / len(examples))
    held: set[int] = set()
    for group in by_label.values():
        shuffled = sorted(group, key=lambda example: _rank(seed, example.label, example.text))
        held |= {example.line for example in shuffled[: min(len(group) - 1, max(1, round(share * len(group))))]}
    return [e for e in examples if e.line not in held], [e for e in examples if e.line in held]


def split_chats(chats: Sequence[Conversation], seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """(to learn, held out); nothing is held out of fewer than LEAST_CHATS."""
    if len(chats) < LEAST_CHATS:
        return list(chats), []
    shuffled = sorted(chats, key=lambda chat: _rank(seed, json.dumps(chat.messages, sort_keys=True), str(chat.line)))
    held = {chat.line for chat in shuffled[: min(MOST, max(1, round(CHAT_SHARE * len(chats))))]}
    return [c for c in chats if c.line not in held], [c for c in chats if c.line in held]


def _rank(seed: int, *parts: str) -> bytes:
    return hashlib.blake2b("\0".join([str(seed), *parts]).encode(errors="surrogatepass"), digest_size=16).digest()
