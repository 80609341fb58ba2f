"""A checkpoint's tokenizer: text to token ids and back, as its own files say, and what its special tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from kelm import limits
from kelm.errors import ModelFormatError
from kelm.text import encoder
from kelm.text import spec as specs
from kelm.text.detokenizer import IncrementalDetokenizer
from kelm.text.files import Files
from kelm.text.pieces import Pieces
from kelm.text.spec import Added, Spec
from kelm.text.splitter import Splitter

Part = encoder.Part
_PRIVATE = ("auto_map", "name_or_path", "_name_or_path", "added_tokens_decoder", "chat_template")


class Tokenizer:
    """Safe to use from several threads; encoding releases the interpreter's lock.

    Attributes:
        vocab_size: one more than the highest id.
        added: added tokens by id.
        special_ids: ids that decoding skips by default.
        control_ids: ids that no user's text becomes; the special ones and what looks like markup (spec.Added).
        bos_id: id of the token that begins a text, if there is one.
        eos_ids: every id that ends an answer: generation_config's (else config's) and the tokenizer's own.
        chat_template: the default template, Jinja source; ``chat_templates`` has the named ones too.
        pieces: the bytes of each token.
    """

    def __init__(self, spec: Spec) -> None:
        backend = encoder.build(spec)
        self.added = _by_id(backend, spec.file.added_tokens)
        self.special_ids = frozenset(i for i, token in self.added.items() if token.special)
        self.control_ids = frozenset(i for i, token in self.added.items() if token.control)
        self.vocab_size = max(backend.get_vocab_size(with_added_tokens=False), max(self.added, default=-1) + 1)
        if self.vocab_size > limits.VOCAB.most:
            raise ModelFormatError(f"tokenizer.json: {self.vocab_size} tokens, the bound is {limits.VOCAB.most:.0f}")
        self._spec = spec
        self._backend = backend
        self._encoder = encoder.PlainEncoder(backend, spec, self.added)
        self.pieces = Pieces(spec.file.decoder, backend.decoder, self._token_of)
        self.named = {name: text for name, text in spec.named.items() if backend.token_to_id(text) is not None}
        """'bos_token' -> '<s>' and so on."""
        bos, eos = self.named.get("bos_token"), self.named.get("eos_token")
        self.bos_id = spec.bos_id if bos is None else self.token_id(bos)
        own = None if eos is None else self.token_id(eos)
        self.eos_ids = tuple(dict.fromkeys([*spec.eos_ids, *([] if own is None else [own])]))
        self.chat_templates = dict(spec.templates)
        self.chat_template = self.chat_templates.get("default")

    @classmethod
    def load(cls, files: Files) -> Tokenizer:
        """From a checkpoint's files (name -> path). Raises ModelFormatError naming file and field."""
        return cls(specs.read(files))

    def encode(self, text: str, add_special_tokens: bool = True, *, allow: Sequence[str] = ()) -> list[int]:
        """``text`` as token ids, with the post-processor's own (bos, cls, sep) around them if wanted.

        ``allow``: added tokens that may be meant where they stand in the text (a mask).
        Raises InvalidRequest for text over PROMPT_BYTES or with lone surrogates.
        """
        parts = Splitter({i: t for i, t in self.added.items() if t.content in allow}).split(text) if allow else [text]
        return self._encoder.encode(parts, add_special_tokens)

    def encode_parts(self, parts: Sequence[Part], add_special_tokens: bool = False) -> list[int]:
        """Plain text and ids, in order; the text is cut as it would be next to those added tokens."""
        return self._encoder.encode(parts, add_special_tokens)

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Two texts as a cross-encoder wants them: ids and token type ids, special tokens included."""
        pairs = self._encoder.encode_pair(first, second)
        return [token_id for token_id, _ in pairs], [kind for _, kind in pairs]

    def encode_offsets(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """``encode``, each id with the characters [start, end) of ``text`` that it stands for."""
        return self._encoder.encode_offsets(text)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``; broken UTF-8 becomes U+FFFD. Ids without a token are left out."""
        stream = IncrementalDetokenizer(self, skip_special_tokens)
        return stream.push(ids) + stream.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds in the middle of a text."""
        return self.pieces.bytes_of(token_id, False) or b""

    def token_text(self, token_id: int) -> str:
        """``token_bytes`` as text, U+FFFD where it isn't whole characters."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_id(self, content: str) -> int | None:
        """The id of a token as the vocabulary spells it; None if there is none."""
        found: int | None = self._backend.token_to_id(content)
        return found

    def info(self) -> dict[str, Any]:
        """What /tokenizer_info tells: tokenizer_config.json, and what was built from it."""
        return {
            **{key: value for key, value in self._spec.config.items() if key not in _PRIVATE},
            **self.named,
            "vocab_size": self.vocab_size,
            "bos_token_id": self.bos_id,
            "eos_token_ids": list(self.eos_ids),
            "special_token_ids": sorted(self.special_ids),
            "chat_template": self.chat_template,
        }

    def _token_of(self, token_id: int) -> str | None:
        """The vocabulary's spelling; None outside it (the encoder's stand-ins lie above)."""
        found: str | None = self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        return found


def _by_id(backend: Backend, tokens: Sequence[Added]) -> dict[int, Added]:
    """By the id that a token really got, whatever the file claims."""
    by_id = {backend.token_to_id(token.content): token for token in tokens if token.content}
    return {token_id: token for token_id, token in by_id.items() if token_id is not None}
