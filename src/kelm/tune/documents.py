"""Documents: JSONL lines {"messages": [{"role", "content"}, ...]} or {"text": "..."}, as token ids with weights.

A conversation is <|begin|> and, for each message, <|role|> content <|end|>. The tokens that the model has to write
(assistant content and its <|end|>, and plain text) weigh 1 in the loss, the others ``prompt_loss``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kelm.errors import ModelFormatError

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL = (PAD, BEGIN, END, *ROLES.values())

Part = tuple[str | None, str]
"""(role, content); a plain text has no role."""


@dataclass(frozen=True)
class Document:
    ids: NDArray[np.int32]  # [T]
    weights: NDArray[np.float32]  # [T], of predicting ids[t] from what is before it
    text_bytes: int


def read(paths: Iterable[Path]) -> Iterator[list[Part]]:
    """The documents of JSONL files. Raises ModelFormatError naming file and line."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _parts(line, f"{path.name}, line {number}")


def _parts(line: str, where: str) -> list[Part]:
    try:
        tree = json.loads(line)
        if "text" in tree:
            return [(None, str(tree["text"]))]
        parts = [(message["role"], str(message["content"])) for message in tree["messages"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFormatError(f"{where}: not a document with 'messages' or 'text'") from error
    unknown = {role for role, _ in parts} - set(ROLES)
    if unknown or not parts:
        raise ModelFormatError(f"{where}: roles must be among {', '.join(ROLES)}, got {sorted(map(str, unknown))}")
    return parts


class Encoder:
    """Turns documents into token ids; special tokens in the text itself stay plain text."""

    def __init__(self, tokenizer: Tokenizer, prompt_loss: float) -> None:
        self._tokenizer, self._prompt_loss = tokenizer, prompt_loss
        self._tokenizer.encode_special_tokens = True
        self._id = {token: tokenizer.token_to_id(token) for token in SPECIAL}

    def encode(self, documents: list[list[Part]]) -> list[Document]:
        contents = [content for parts in documents for _, content in parts]
        encoded = iter(self._tokenizer.encode_batch(contents, add_special_tokens=False))
        return [self._document(parts, [next(encoded).ids for _ in parts]) for parts in documents]

    def _document(self, parts: list[Part], contents: list[list[int]]) -> Document:
        ids, weights = [self._id[BEGIN]], [0.0]
        for (role, _), content in zip(parts, contents, strict=True):
            written = 1.0 if role in (None, "assistant") else self._prompt_loss
            if role is not None:
                ids.append(self._id[ROLES[role]])
                weights.append(self._prompt_loss)
            ids += [*content, self._id[END]]
            weights += [written] * (len(content) + 1)
        size = sum(len(content.encode()) for _, content in parts)
        return Document(np.array(ids, np.int32), np.array(weights, np.float32), size)
