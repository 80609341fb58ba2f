"""JSON schemas for grammars: how the text of an answer is spelled, and whether any text can meet a schema at all.

llguidance itself refuses most schemas that nothing meets (bounds that cross, types that exclude each other). What it
lets pass is one whose instances would never end, since its grammar is right and has no sentence:

    {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kelm.errors import InvalidRequest
from kelm.text.closing import closed

Schema = Mapping[str, Any]

_SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Python's json.dumps: what chat models saw most, and no endless white space."""
_ROUNDS = 32
"""Each looks at every reference once; a chain of more that go backwards counts as ending."""


def spelled(schema: Schema) -> str:
    """The schema, closed, as JSON text in one line, with our spelling of the answer."""
    return json.dumps({**closed(dict(schema)), "x-guidance": _SPELLING}, ensure_ascii=True)


def check_ends(schema: Schema) -> None:
    """Raise InvalidRequest when every instance of ``schema`` would be infinite."""
    if not _Ends(schema).found(schema):
        raise InvalidRequest("no text can meet the schema: what it requires refers back to itself without an end")


class _Ends:
    """Which references have a finite instance: the least fixed point."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._ending: set[str] = set()
        waiting = {ref: self._target(ref) for ref in _references(root)}
        for _ in range(_ROUNDS):
            ended = {ref for ref, target in waiting.items() if self.found(target)}
            if not ended:
                return
            self._ending |= ended
            waiting = {ref: target for ref, target in waiting.items() if ref not in ended}
        self._ending |= set(waiting)

    def found(self, schema: Any) -> bool:
        """Whether a finite instance is known. What is no schema at all is for the compiler to refuse."""
        if not isinstance(schema, Mapping) or "const" in schema or "enum" in schema:
            return True
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref not in self._ending:
            return False
        for key in ("anyOf", "oneOf"):
            options = schema.get(key)
            if isinstance(options, list) and options and not any(map(self.found, options)):
                return False
        parts = schema.get("allOf")
        return (not isinstance(parts, list) or all(map(self.found, parts))) and all(map(self.found, _needed(schema)))

    def _target(self, ref: str) -> Any:
        """What a local reference points to; None for others."""
        at: Any = self._root
        for part in ref.removeprefix("#").split("/")[1:] if ref.startswith("#") else [ref]:
            key = part.replace("~1", "/").replace("~0", "~")
            at = at.get(key) if isinstance(at, Mapping) else None
        return at


def _needed(schema: Schema) -> list[Any]:
    """The schemas of what every instance has inside; none where an instance may be of another type."""
    kind = schema.get("type")
    properties, required = schema.get("properties"), schema.get("required")
    if kind in ("object", ["object"]) and isinstance(properties, Mapping) and isinstance(required, list):
        return [properties[name] for name in required if isinstance(name, str) and name in properties]
    least = schema.get("minItems")
    if kind in ("array", ["array"]) and isinstance(least, int) and least > 0:
        first = schema.get("prefixItems")
        first = first[:least] if isinstance(first, list) else []
        return [*first, *([schema.get("items")] if least > len(first) else [])]
    return []


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            ref = value.get("$ref")
            if isinstance(ref, str):
                yield ref
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
