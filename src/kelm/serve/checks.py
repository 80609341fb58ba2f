"""What a field of a JSON body may hold. Each check names the field, the value and the bound when it refuses.

A check is called with the field's name and a value that is not null, and returns the value in the form in which
the door wants it. ``schema`` is the same rule for /openapi.json. bool is never an integer, "1" is never a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kelm.errors import InvalidRequest, UnsupportedField
from kelm.limits import Bound, shown
from kelm.suggest import did_you_mean

Schema = dict[str, Any]


class Check(Protocol):
    def __call__(self, field: str, value: object) -> Any: ...

    def schema(self) -> Schema: ...


def refuse(field: str, wanted: str, value: object) -> InvalidRequest:
    """The one wording for a value of the wrong kind. Long values are shortened."""
    return InvalidRequest(f"{field} must be {wanted}, got {shown(value)}", param=field)


def check_count(field: str, count: int, bound: Bound) -> None:
    """``count`` entries or bytes of ``field`` against its bound."""
    if not bound.least <= count <= bound.most:
        raise InvalidRequest(f"{field} must have {bound.least} to {bound.most} {bound.unit}, got {count}", param=field)


@dataclass(frozen=True, slots=True)
class Number:
    bound: Bound

    def __call__(self, field: str, value: object) -> Any:
        self.bound.check(value, field=field)
        return value

    def schema(self) -> Schema:
        kind = "integer" if self.bound.integer else "number"
        return {"type": kind, "minimum": self.bound.least, "maximum": self.bound.most}


@dataclass(frozen=True, slots=True)
class Flag:
    def __call__(self, field: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise refuse(field, "true or false", value)
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text:
    """A string whose UTF-8 form is inside ``bound`` bytes."""

    bound: Bound

    def __call__(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise refuse(field, "a string", value)
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"{field} holds a lone surrogate, which is not a character", param=field) from None
        check_count(field, size, self.bound)
        return value

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": self.bound.most}


@dataclass(frozen=True, slots=True)
class OneOf:
    words: tuple[str, ...]

    def __call__(self, field: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise refuse(field, f"one of {', '.join(self.words)}", value)
        return value

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Only:
    """A field of OpenAI's of which we support these values only: those that change nothing here."""

    values: tuple[object, ...]

    def __call__(self, field: str, value: object) -> object:
        if any(type(value) is type(each) and value == each for each in self.values):
            return value
        allowed = ", ".join(map(repr, self.values))
        raise UnsupportedField(f"{field} is supported with {allowed} only, got {shown(value)}", param=field)

    def schema(self) -> Schema:
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of ``count`` entries, each by ``item``; ``lone``: one entry may stand without its list."""

    count: Bound
    item: Check
    lone: bool = False

    def __call__(self, field: str, value: object) -> tuple[Any, ...]:
        if self.lone and isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise refuse(field, "a string or a list" if self.lone else "a list", value)
        check_count(field, len(value), self.count)
        return tuple(self.item(f"{field}[{i}]", entry) for i, entry in enumerate(value))

    def schema(self) -> Schema:
        many = {"type": "array", "items": self.item.schema(), "maxItems": self.count.most}
        return {"anyOf": [self.item.schema(), many]} if self.lone else many


@dataclass(frozen=True, slots=True)
class Object:
    """An object with these fields only, none of them required."""

    fields: dict[str, Check]

    def __call__(self, field: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise refuse(field, "an object", value)
        for name in value:
            if name not in self.fields:
                raise unknown(f"{field}.{name}", name, self.fields)
        return {name: self.fields[name](f"{field}.{name}", each) for name, each in value.items() if each is not None}

    def schema(self) -> Schema:
        return {"type": "object", "properties": {name: check.schema() for name, check in self.fields.items()}}


@dataclass(frozen=True, slots=True)
class Mapping:
    """An object of ``count`` entries with free keys; ``key`` turns a key into what it stands for."""

    count: Bound
    item: Check
    key: Callable[[str, str], Any]

    def __call__(self, field: str, value: object) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise refuse(field, "an object", value)
        check_count(field, len(value), self.count)
        return {self.key(field, key): self.item(f"{field}[{key!r:.80}]", each) for key, each in value.items()}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.item.schema(), "maxProperties": self.count.most}


def unknown(field: str, name: str, known: Any) -> InvalidRequest:
    """A field that no table lists."""
    return InvalidRequest(f"unknown field {field:.80}{did_you_mean(name[:80], known)}", param=field[:80])
