"""Checks for what a model reads: texts, token ids, and batches of either."""

from __future__ import annotations

from dataclasses import dataclass

from kelm import limits
from kelm.limits import Bound
from kelm.serve.checks import Schema, Text, check_count, refuse

Prompt = str | list[int]
"""One input: text still to be tokenized, or token ids."""

TEXT = Text(limits.PROMPT_BYTES)


@dataclass(frozen=True, slots=True)
class Ids:
    """A list of token ids; the model's own vocabulary is checked when the model is known."""

    count: Bound

    def __call__(self, field: str, value: object) -> list[int]:
        if not isinstance(value, list):
            raise refuse(field, "a list of token ids", value)
        check_count(field, len(value), self.count)
        if any(type(entry) is not int for entry in value):
            wrong = next(i for i, entry in enumerate(value) if type(entry) is not int)
            raise refuse(f"{field}[{wrong}]", "a token id (an integer)", value[wrong])
        if value:
            for extreme in (min(value), max(value)):
                limits.TOKEN_ID.check(extreme, field=field)
        return value

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "integer"}, "maxItems": self.count.most}


IDS = Ids(limits.TOKEN_IDS)


@dataclass(frozen=True, slots=True)
class Prompts:
    """OpenAI's four forms: a string, a list of strings, a list of token ids, a list of lists of token ids.

    Always returns a list of inputs. An input may not be an empty list of tokens.
    """

    count: Bound

    def __call__(self, field: str, value: object) -> list[Prompt]:
        if isinstance(value, str):
            return [TEXT(field, value)]
        if not isinstance(value, list):
            raise refuse(field, "a string, a list of strings, a list of token ids, or a list of those", value)
        if value and type(value[0]) is int:
            return [IDS(field, value)]
        check_count(field, len(value), self.count)
        return [self._one(f"{field}[{i}]", entry) for i, entry in enumerate(value)]

    def _one(self, field: str, entry: object) -> Prompt:
        if isinstance(entry, str):
            return TEXT(field, entry)
        if not isinstance(entry, list) or not entry:
            raise refuse(field, "a string or a non-empty list of token ids", entry)
        return IDS(field, entry)

    def schema(self) -> Schema:
        text, ids = TEXT.schema(), IDS.schema()
        return {"anyOf": [text, {"type": "array", "items": text}, ids, {"type": "array", "items": ids}]}


@dataclass(frozen=True, slots=True)
class Documents:
    """Texts to rank: strings, or Cohere's ``{"text": ...}``."""

    count: Bound

    def __call__(self, field: str, value: object) -> list[str]:
        if not isinstance(value, list):
            raise refuse(field, "a list of strings", value)
        check_count(field, len(value), self.count)
        return [self._one(f"{field}[{i}]", entry) for i, entry in enumerate(value)]

    def _one(self, field: str, entry: object) -> str:
        if isinstance(entry, dict):
            if set(entry) != {"text"}:
                raise refuse(field, 'a string or {"text": string}', entry)
            return TEXT(f"{field}.text", entry["text"])
        return TEXT(field, entry)

    def schema(self) -> Schema:
        return {"type": "array", "items": TEXT.schema(), "maxItems": self.count.most}
