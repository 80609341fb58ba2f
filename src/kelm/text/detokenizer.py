"""Token ids to text, a few at a time, without ever showing half a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kelm.text.tokenizer import Tokenizer

_NOTHING: Set[int] = frozenset()


class IncrementalDetokenizer:
    """The text of one stream of tokens.

    ``"".join(push(part) for part in parts) + flush()`` is the decoding of all parts together, whatever the parts.
    It starts empty: a prompt's text, or its unfinished last character, can't leak into an answer. Each token costs
    one dictionary look-up and the decoding of its bytes.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._pieces = tokenizer.pieces
        self._hidden: Set[int] = tokenizer.special_ids if skip_special_tokens else _NOTHING
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = True
        self._tail = b""

    @property
    def holds_bytes(self) -> bool:
        """Whether the bytes so far end inside a character."""
        return bool(self._utf8.getstate()[0])

    def push(self, ids: Iterable[int]) -> str:
        """The characters completed by these tokens."""
        parts: list[bytes] = []
        for token_id in ids:
            piece = None if token_id in self._hidden else self._pieces.bytes_of(token_id, self._first)
            if piece is None:
                continue
            parts += (self._tail, piece)
            self._tail = self._pieces.tail_of(token_id)
            self._first = False
        return self._utf8.decode(b"".join(parts))

    def flush(self) -> str:
        """The end of the text: U+FFFD if it ends inside a character. The stream is over."""
        self._tail = b""
        return self._utf8.decode(b"", final=True)
