"""Schemas closed where they say nothing: an object that lists its properties gets no others.

JSON schema allows any others, and a weak model goes on inventing them for ever. What is generated under the closed
schema meets the open one too, so nothing that a client was promised is lost. A schema that puts objects together
(allOf, or anyOf beside properties) stays as it is: there closing one part could shut out another's properties.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
_COMBINED = ("anyOf", "oneOf", "$ref")
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy in which objects with properties have no others, unless the schema says something of them."""
    return schema if any(map(_combines, _nodes(schema))) else _closed(schema)


def _combines(node: dict[str, Any]) -> bool:
    parts = node.get("allOf")
    if isinstance(parts, list) and (len(parts) > 1 or "properties" in node):
        return True
    return "properties" in node and any(key in node for key in _COMBINED)


def _closed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    copy = dict(node)
    for key in _MAPS:
        if isinstance(node.get(key), dict):
            copy[key] = {name: _closed(value) for name, value in node[key].items()}
    for key in _LISTS:
        if isinstance(node.get(key), list):
            copy[key] = [_closed(value) for value in node[key]]
    for key in _SINGLE:
        if key in node:
            copy[key] = _closed(node[key])
    properties, required = node.get("properties"), node.get("required", [])
    listed = (
        isinstance(properties, dict) and isinstance(required, list) and all(name in properties for name in required)
    )
    return {**copy, "additionalProperties": False} if listed and not any(key in node for key in _OPEN) else copy


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema in it, itself included."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        for key in _MAPS:
            waiting += node[key].values() if isinstance(node.get(key), dict) else ()
        for key in _LISTS:
            waiting += node[key] if isinstance(node.get(key), list) else ()
        waiting += [node[key] for key in _SINGLE if key in node]
