"""Reading a config.json, which is untrusted: every value is checked, every error names the field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from kelm.errors import InvalidRequest, ModelFormatError
from kelm.limits import CONFIG_BYTES, Bound

_HUGE = 1e30  # past any real setting, far inside float32


class Fields:
    """A JSON object with checked access. ``where`` is put before field names in errors ('rope_scaling.')."""

    def __init__(self, values: Mapping[str, object], where: str = "", file: str = "config.json") -> None:
        self._values, self._where, self._file = values, where, file

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: str) -> bool:
        """True if the field is there and not null."""
        return self._values.get(name) is not None

    def raw(self, name: str) -> object:
        return self._values.get(name)

    def wrong(self, name: str, wanted: str) -> ModelFormatError:
        got = "nothing" if name not in self._values else _shown(self._values[name])
        return ModelFormatError(f"{self._file}: {self._where}{name} must be {wanted}, got {got}")

    def integer(self, name: str, bound: Bound, default: int | None = None) -> int:
        """The integer at ``name``; ``default`` for a missing or null one (none: it must be there)."""
        value = self._get(name, default)
        try:
            bound.check(value, field=name)
        except InvalidRequest as error:
            raise self.wrong(name, f"an integer between {bound.least:g} and {bound.most:g}") from error
        assert isinstance(value, int)
        return value

    def optional_integer(self, name: str, bound: Bound, default: int | None) -> int | None:
        """As ``integer``; null means none, and ``default`` stands for a missing field."""
        return None if name in self._values and self._values[name] is None else self.integer(name, bound, default)

    def number(self, name: str, default: float | None = None, *, least: float = 0.0) -> float:
        """The finite number above ``least`` at ``name``."""
        value = self._get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least < value < _HUGE:
            raise self.wrong(name, f"a finite number above {least:g}")
        return float(value)

    def optional_number(self, name: str, default: float | None = None) -> float | None:
        """As ``number``; null means none, and ``default`` stands for a missing field."""
        if name not in self._values:
            return default
        return None if self._values[name] is None else self.number(name)

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def names(self, name: str) -> list[str]:
        """A list of strings; empty when missing."""
        value = self._get(name, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(name, "a list of strings")
        return value

    def table(self, name: str) -> Fields:
        """The object at ``name``; an empty one when missing or null."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value or {}, f"{self._where}{name}.", self._file)

    def objects(self, name: str) -> list[Fields]:
        """A list of objects; empty when missing."""
        value = self._get(name, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.wrong(name, "a list of objects")
        return [Fields(v, f"{self._where}{name}[{i}].", self._file) for i, v in enumerate(value)]

    def __bool__(self) -> bool:
        return bool(self._values)

    def _get(self, name: str, default: object) -> object:
        value = self._values.get(name)
        return default if value is None else value


def read_json(path: str, name: str, bound: Bound = CONFIG_BYTES) -> Fields:
    """The object in the JSON file ``path``; ``name`` is what errors call it. Raises ModelFormatError."""
    value = _parse(path, name, bound)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{name} must hold an object, got {_shown(value)}")
    return Fields(value, file=name)


def read_json_list(path: str, name: str, bound: Bound = CONFIG_BYTES) -> list[Fields]:
    """As ``read_json``, for a list of objects."""
    return Fields({name: _parse(path, name, bound)}, file=name).objects(name)


def _parse(path: str, name: str, bound: Bound) -> object:
    file = Path(path)
    size = file.stat().st_size
    if size > bound.most:
        raise ModelFormatError(f"{name} is {size} bytes, the limit is {bound.most:g}")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{name} is not valid JSON: {error}") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
