"""Grammars for the sampler: which tokens may come next, by ``llguidance`` over a checkpoint's own tokens.

A grammar travels as text (``Sampling.grammar``): Lark, or the JSON that ``from_regex`` and its like make. Regular
expressions are llguidance's: derivatives, linear time, no backtracking. What a request may cost is bounded three
times: bytes of text here, ``LLParserLimits`` while it compiles and at each step, and the helper process, in which
the door compiles it first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from kelm import limits
from kelm.errors import InvalidRequest, UnsupportedModel
from kelm.text.files import Files
from kelm.text.tokenizer import Tokenizer

FILE = "grammar.lark"
"""A checkpoint's own grammar: what its chats are masked by when the request brings none."""


def from_lark(source: str) -> str:
    """Grammar text of a Lark grammar (llguidance's dialect, docs/syntax.md there)."""
    return _bounded(str(LLMatcher.grammar_from_lark(_bounded(source))))


def from_regex(pattern: str) -> str:
    """Grammar text of a regular expression (Rust's syntax, without look-around and backreferences)."""
    return _bounded(str(LLMatcher.grammar_from_regex(_bounded(pattern))))


def from_json_schema(schema: str | dict[str, Any]) -> str:
    """Grammar text of a JSON schema."""
    text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    try:
        msgspec.json.decode(_bounded(text), type=dict[str, Any] | bool)
        return _bounded(str(LLMatcher.grammar_from_json_schema(text)))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not JSON: {_short(str(error))}", param="json_schema") from None


def from_choices(choices: Sequence[str]) -> str:
    """Grammar text that allows exactly one of the strings."""
    if not choices or not all(choices):
        raise InvalidRequest("choices must be a list of strings that are not empty", param="grammar")
    return from_lark("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Building it takes about a second for 100,000 tokens: keep it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises UnsupportedModel for a model without an end token, whose answers no grammar could end."""
        self.vocab_size = tokenizer.vocab_size
        self.eos_ids = tuple(token_id for token_id in tokenizer.eos_ids if token_id < tokenizer.vocab_size)
        if not self.eos_ids:
            raise UnsupportedModel("a grammar needs an end token, and this model's files declare none")
        self._tokens = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, self.eos_ids)), eos_token=[*self.eos_ids])
        self._limits = LLParserLimits(
            initial_lexer_fuel=1_000_000,  # llguidance's figure: about 20 ms
            step_lexer_fuel=200_000,  # 15 ms
            step_max_items=20_000,  # 1 ms
            max_lexer_states=50_000,  # up to 100 MB
            max_grammar_size=100_000,
            verbose_errors=False,
        )

    @classmethod
    def for_tokenizer(cls, files: Files) -> GrammarCompiler:
        """From a checkpoint's files (name -> path)."""
        return cls(Tokenizer.load(files))

    def check(self, grammar: str) -> None:
        """Raise InvalidRequest for a grammar that doesn't compile, or that costs too much."""
        self.start(grammar).bitmask()

    def start(self, grammar: str, known: Iterable[int] = ()) -> GrammarState:
        """The state before the first token, or after ``known`` ones (a request goes on after a restart)."""
        matcher = LLMatcher(self._tokens, _bounded(grammar), log_level=0, limits=self._limits)
        state = GrammarState(matcher, self.vocab_size)
        for token_id in known:
            state.accept(token_id)
        return state


class GrammarState:
    """One choice's place in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = (vocab_size + 31) // 32
        self._vocab_size = vocab_size
        self._check()

    @property
    def finished(self) -> bool:
        """Nothing but an end token may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def may_end(self) -> bool:
        """Whether the text so far is a whole sentence of the grammar."""
        return bool(self._matcher.is_accepting())

    def bitmask(self) -> NDArray[np.uint32]:
        """[ceil(vocab / 32)] bit i % 32 of word i // 32 set: token i may come next. End tokens only at an end.

        Raises InvalidRequest when the grammar costs more than its bounds at this place.
        """
        words = np.zeros(self._words, dtype=np.uint32)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()
        return words

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set what may not come next to -inf, in place. ``logits``: [width], also wider than the vocabulary."""
        bits = np.unpackbits(self.bitmask().view(np.uint8), bitorder="little")[: self._vocab_size]
        width = min(len(bits), len(logits))
        logits[:width][bits[:width] == 0] = -np.inf
        logits[width:] = -np.inf

    def accept(self, token_id: int) -> None:
        """Go on with a token. Raises InvalidRequest for one that the grammar does not allow here."""
        if not self._matcher.consume_token(token_id):
            raise InvalidRequest(f"token {token_id} does not fit the grammar at this place", param="grammar")

    def fork(self) -> GrammarState:
        """An independent copy (another choice of the same request)."""
        return GrammarState(self._matcher.deep_copy(), self._vocab_size)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(f"the grammar cannot be used: {_short(self._matcher.get_error())}", param="grammar")


class _Vocabulary:
    """What ``llguidance`` wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.control_ids | set(eos_ids))
        special = set(self.special_token_ids)
        self._by_bytes = {text: i for i, text in enumerate(self.tokens) if i not in special}
        self._longest = max(map(len, self._by_bytes), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids whose bytes are ``text``'s: llguidance indexes the one by the other."""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        wanted = text.encode("utf-8", "replace")
        for before in ("", "\x02"):  # tokenizers that begin a text with a space begin it before the \x02
            ids = self._without(before.encode(), self._tokenizer.encode(before + text, add_special_tokens=False))
            if b"".join(self.tokens[i] for i in ids) == wanted:
                return ids
        return self._greedy(wanted)

    def _without(self, before: bytes, ids: list[int]) -> list[int]:
        """``ids`` after those that make up ``before`` and a space."""
        for skip in range(len(ids) if before else 0):
            if b"".join(self.tokens[i] for i in ids[:skip]).lstrip(b" ") == before:
                return ids[skip:]
        return ids

    def _greedy(self, wanted: bytes) -> list[int]:
        """Longest token first, for tokenizers that change the text (lower case, say); b"" tokens never."""
        ids: list[int] = []
        while wanted:
            size = next((n for n in range(min(self._longest, len(wanted)), 0, -1) if wanted[:n] in self._by_bytes), 0)
            if not size:
                break
            ids.append(self._by_bytes[wanted[:size]])
            wanted = wanted[size:]
        return ids


def _bounded(text: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if not limits.GRAMMAR_BYTES.least <= size <= limits.GRAMMAR_BYTES.most:
        most = limits.GRAMMAR_BYTES.most
        raise InvalidRequest(f"a grammar must have 1 to {most:.0f} bytes, got {size}", param="grammar")
    return text


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."
