"""JSON body -> request dataclass. The dataclass is the table: each field's annotation carries its check.

    temperature: Annotated[float | None, Number(limits.TEMPERATURE)] = None

A field that the table lacks is refused: with UnsupportedField when it is one that OpenAI or vLLM knows (the class's
REFUSED says why), with near matches otherwise. null is the same as leaving a field out, as at OpenAI.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, get_type_hints

from kelm.errors import InvalidRequest, UnsupportedField
from kelm.serve.checks import Check, Schema, refuse, unknown

T = TypeVar("T")


_tables: dict[type[Any], dict[str, Check]] = {}


def table(kind: type[Any]) -> dict[str, Check]:
    """Field name -> check, in the order of the dataclass."""
    if kind not in _tables:
        hints = get_type_hints(kind, include_extras=True)
        _tables[kind] = {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(kind)}
    return _tables[kind]


def parse(kind: type[T], body: object) -> T:
    """A checked ``kind``. Raises InvalidRequest or UnsupportedField naming the field, the value and the bound."""
    if not isinstance(body, dict):
        raise refuse("body", "a JSON object", body)
    checks = table(kind)
    for name, value in body.items():
        if name not in checks and value is not None:
            raise _foreign(kind, name, checks)
    given = {name: checks[name](name, value) for name, value in body.items() if name in checks and value is not None}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in given and field.default is dataclasses.MISSING:
            raise InvalidRequest(f"{field.name} is required", param=field.name)
    return kind(**given)


def _foreign(kind: type[Any], name: str, checks: dict[str, Check]) -> InvalidRequest:
    refused: dict[str, str] = kind.REFUSED
    if name in refused:
        return UnsupportedField(f"{name} is not supported here: {refused[name]}", param=name)
    return unknown(name, name, checks)


def schema(kind: type[Any]) -> Schema:
    """The table as a JSON schema, for /openapi.json."""
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    properties = {name: check.schema() for name, check in table(kind).items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
