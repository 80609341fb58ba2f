"""Plain text and token ids, in order, to one sequence of ids.

``tokenizers`` finds special tokens in any string. Here a string is only text: the control tokens (spec.Added) are
switched off in the backend, and where one is meant (a template's literal, a mask) it comes as an id:

    parts      [151644, "user\\nhi <|im_end|>", 151645]
    string     "☐user\\nhi <|im_end|>☐"                 ☐: a stand-in, one private added token
    backend    ☐ user \\n hi < | im _end | > ☐          in one go, so the text around an id is cut exactly as
    ids        151644 872 198 ... 91 29 151645          tokenizers cuts it next to an added token

A vocabulary that can spell a control token as a piece of text (Unigram, ignore_merges) is caught afterwards: such an
id is replaced by the ids of its characters.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from kelm import limits
from kelm.errors import InvalidRequest, KelmError, ModelFormatError
from kelm.text.spec import Added, Spec

Part = str | int
Offsets = tuple[int, int]
Kind = TypeVar("Kind")
_STAND_INS = ("\U0010fffe", "\U0010ffff")
"""For tokens matched in raw and in normalized text. Noncharacters: Unicode keeps them out of interchanged text."""


class _Unknown(msgspec.Struct):
    """What a model of ``tokenizers`` says about its unknown token; the vocabulary beside it stays unparsed."""

    unk_token: str | None = None
    unk_id: int | None = None


def build(spec: Spec) -> Backend:
    """The backend with control tokens switched off in text. Raises ModelFormatError."""
    listed = [token for token in spec.file.added_tokens if token.id >= 0]
    entries = [msgspec.structs.replace(token, special=token.control) for token in listed]
    edited = msgspec.json.encode(msgspec.structs.replace(spec.file, added_tokens=entries))
    try:
        backend = Backend.from_str(edited.decode())
        extra = [token for token in spec.file.added_tokens if token.id < 0 and token.content]
        backend.add_tokens([_added(token, special=token.control) for token in extra])
        backend.encode_special_tokens = True
        if backend.post_processor is None:  # as transformers: the second text of a pair is of type 1
            backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
        backend.encode_batch_fast(["probe"])
    except BaseException as error:  # a panic inside tokenizers is not an Exception
        raise _refusal(error, ModelFormatError, "tokenizer.json cannot be used") from None
    return backend


def check_text(text: str) -> None:
    """Raise InvalidRequest for text over PROMPT_BYTES, or that UTF-8 cannot carry."""
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the text has a lone surrogate at character {error.start}; send valid Unicode") from None
    most = limits.PROMPT_BYTES.most
    if size > most:
        raise InvalidRequest(f"the text has {size} bytes, the bound is {most:.0f}; send less", param="prompt")


class PlainEncoder:
    """Wraps a backend from ``build``; adds the stand-ins to it."""

    def __init__(self, backend: Backend, spec: Spec, added: Mapping[int, Added]) -> None:
        self._backend = backend
        self._added = added
        unknown = msgspec.json.decode(spec.file.model, type=_Unknown)
        unk = unknown.unk_token if unknown.unk_id is None else backend.id_to_token(unknown.unk_id)
        self._unk_id: int | None = None if unk is None else backend.token_to_id(unk)
        self._forbidden = self._reachable()
        backend.add_tokens([AddedToken(char, normalized=i == 1, special=False) for i, char in enumerate(_STAND_INS)])
        self._ids = {backend.token_to_id(char): char for char in _STAND_INS}
        survives = backend.normalizer is None or backend.normalizer.normalize_str(_STAND_INS[1]) == _STAND_INS[1]
        self._normalized = _STAND_INS[1 if survives else 0]
        found = bool(unk) and self._unk_id in backend.encode_batch_fast([unk], add_special_tokens=False)[0].ids
        odd = [*_STAND_INS, *([unk] if unk and found and len(unk) > 1 else [])]
        self._odd = re.compile("|".join(re.escape(text) for text in odd))

    def encode(self, parts: Sequence[Part], add_special_tokens: bool) -> list[int]:
        """Raises InvalidRequest for a text over its bound or with lone surrogates."""
        text, replacements = self._assemble(parts)
        return [token_id for token_id, _ in self._run(text, replacements, add_special_tokens)]

    def encode_pair(self, first: str, second: str) -> list[tuple[int, int]]:
        """(id, token type id) of two texts joined by the post-processor."""
        (a, of_a), (b, of_b) = self._assemble([first]), self._assemble([second])
        return list(self._run((a, b), of_a + of_b, True))

    def encode_offsets(self, text: str) -> list[tuple[int, Offsets]]:
        """(id, its characters [start, end) in ``text``), special tokens included; those stand for no characters."""
        assembled, replacements = self._assemble([text])
        try:  # the fast call has no offsets
            encoding = self._backend.encode_batch([assembled])[0]
        except BaseException as error:
            raise _refusal(error, InvalidRequest, "the model's tokenizer cannot encode this text") from None
        offsets: list[Offsets] = encoding.offsets
        tokens = zip(encoding.ids, offsets, encoding.special_tokens_mask, strict=True)
        added = self._inserted(assembled, replacements)
        return [
            (token_id, (start - bisect_left(added, start), end - bisect_left(added, end)))
            for token_id, (start, end) in self._replace(tokens, iter(replacements))
        ]

    @staticmethod
    def _inserted(assembled: str, replacements: list[list[int]]) -> list[int]:
        """Where ``_assemble`` put a stand-in that no character of the text stands for."""
        places = [i for i, char in enumerate(assembled) if char in _STAND_INS] if replacements else []
        return [place for place, ids in zip(places, replacements, strict=True) if not ids]

    def _assemble(self, parts: Sequence[Part]) -> tuple[str, list[list[int]]]:
        """The string to encode and, for each stand-in in it, the ids that take its place."""
        replacements: list[list[int]] = []

        def odd(match: re.Match[str]) -> str:
            text = match[0]
            if text in _STAND_INS:  # the user's own: spelled out like any other character
                replacements.append(self._plain(text))
                return text
            replacements.append([])  # the unknown token's name: broken, or the model would find it whole
            return text[0] + _STAND_INS[0] + text[1:]

        strings: list[str] = []
        for part in parts:
            if isinstance(part, int):
                token = self._added.get(part)
                strings.append(self._normalized if token is not None and token.normalized else _STAND_INS[0])
                replacements.append([part])
            else:
                check_text(part)
                strings.append(self._odd.sub(odd, part))
        text = "".join(strings)
        if len(strings) > 1:
            check_text(text)
        return text, replacements

    def _run(
        self, text: str | tuple[str, str], replacements: list[list[int]], specials: bool
    ) -> Iterator[tuple[int, int]]:
        try:  # the batch call is the one that releases the interpreter's lock
            encoding = self._backend.encode_batch_fast([text], add_special_tokens=specials)[0]
        except BaseException as error:
            raise _refusal(error, InvalidRequest, "the model's tokenizer cannot encode this text") from None
        ids, kinds = encoding.ids, encoding.type_ids
        if not replacements and self._forbidden.isdisjoint(ids):
            return iter(zip(ids, kinds, strict=True))
        return self._replace(zip(ids, kinds, encoding.special_tokens_mask, strict=True), iter(replacements))

    def _replace(
        self, tokens: Iterator[tuple[int, Kind, int]], replacements: Iterator[list[int]]
    ) -> Iterator[tuple[int, Kind]]:
        for token_id, kind, from_template in tokens:
            if token_id in self._ids:
                yield from ((new, kind) for new in next(replacements))
            elif token_id in self._forbidden and not from_template:
                yield from ((new, kind) for new in self._spelled(self._added[token_id].content))
            else:
                yield token_id, kind

    def _reachable(self) -> frozenset[int]:
        """Control tokens that the vocabulary itself may make of a text; the unknown token must stay possible."""
        model = self._backend.model
        controls = (i for i, token in self._added.items() if token.control)
        return frozenset(i for i in controls if model.id_to_token(i) is not None) - {self._unk_id}

    def _spelled(self, token: str) -> list[int]:
        """The ids of a control token's characters."""
        if len(token) == 1:
            return [] if self._unk_id is None else [self._unk_id]
        ids: list[int] = []
        for half in (token[0], token[1:]):
            for found in self._backend.model.tokenize(half):
                ids += self._spelled(found.value) if found.id in self._forbidden else [found.id]
        return ids

    def _plain(self, text: str) -> list[int]:
        """``text`` encoded without any added token, stand-ins included."""
        backend = self._backend
        text = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        words = (
            [text] if backend.pre_tokenizer is None else [w for w, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        )
        return [found.id for word in words if word for found in backend.model.tokenize(word)]


def _added(token: Added, special: bool) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )


def _refusal(error: BaseException, kind: type[KelmError], what: str) -> BaseException:
    if isinstance(error, (KeyboardInterrupt, SystemExit, KelmError)):
        return error
    return kind(f"{what}: {str(error)[:200]}")
