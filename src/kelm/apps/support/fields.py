"""YAML of the desk: mappings whose keys are known. A key that is not is an error with near matches."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import yaml

from kelm.errors import ConfigError
from kelm.limits import Bound, shown
from kelm.suggest import did_you_mean

T = TypeVar("T")
_LEFT_OUT: Any = object()


class _Loader(yaml.SafeLoader):
    """As YAML wants it, and PyYAML does not have it: a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else key
            if name in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {name!r} comes twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def parse_yaml(name: str, text: str) -> Any:
    """Raises ConfigError with the line when it is not YAML."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from None


class Fields:
    """A mapping. ``at`` is how messages name it; null is the same as leaving a key out.

    Raises ConfigError for what is no mapping, and for a key that is not in ``known``.
    """

    def __init__(self, at: str, value: Any, known: Collection[str]) -> None:
        self._at = at
        if not isinstance(value, dict):
            raise ConfigError(f"{at}: must be a mapping with {', '.join(known)}; got {shown(value)}")
        for key in value:
            if key not in known:
                raise ConfigError(f"{at}: unknown key {shown(key)}{did_you_mean(str(key), known)}")
        self._values = {key: entry for key, entry in value.items() if entry is not None}

    def all(self) -> dict[str, Any]:
        return dict(self._values)

    def value(self, key: str, default: Any = _LEFT_OUT) -> Any:
        if key in self._values:
            return self._values[key]
        if default is _LEFT_OUT:
            raise ConfigError(f"{self._at}: {key} is missing")
        return default

    def text(self, key: str, default: Any = _LEFT_OUT, most: int = 200) -> str:
        """One line of text that isn't blank."""
        value = self.value(key, default)
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > most:
            raise ConfigError(f"{self._at}: {key} must be one line of text of at most {most} characters, "
                              f"got {shown(value)}")  # fmt: skip
        return value.strip()

    def one_of(self, key: str, words: Collection[str], default: Any = _LEFT_OUT) -> str:
        value = self.value(key, default)
        if value not in words:
            near = did_you_mean(str(value), words)
            raise ConfigError(f"{self._at}: {key} must be one of {', '.join(words)}; got {shown(value)}{near}")
        return str(value)

    def number(self, key: str, bound: Bound, default: Any = _LEFT_OUT) -> float:
        value = self.value(key, default)
        kinds = int if bound.integer else int | float
        ok = isinstance(value, kinds) and not isinstance(value, bool) and bound.least <= value <= bound.most
        if not ok:
            what = "a whole number" if bound.integer else "a number"
            raise ConfigError(
                f"{self._at}: {key} must be {what} between {bound.least} and {bound.most}, got {shown(value)}"
            )
        return float(value)

    def texts(self, key: str, default: Any = _LEFT_OUT) -> tuple[str, ...]:
        """A list of texts."""
        value = self.value(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) and entry.strip() for entry in value):
            raise ConfigError(f"{self._at}: {key} must be a list of texts, got {shown(value)}")
        return tuple(entry.strip() for entry in value)

    def mapping(self, key: str, default: Any = _LEFT_OUT) -> dict[str, Any]:
        """A mapping whose keys are the desk's own words."""
        value = self.value(key, default)
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{self._at}: {key} must be a mapping, got {shown(value)}")
        return value
