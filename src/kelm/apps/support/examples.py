"""The desk's CSV files, read as `kelm tune` reads them: texts of customers and what is right for them.

intents.csv       text,label     label: an intent
calibration.csv   text,expect    expect: an intent, ``article:NAME``, or ``none`` (nothing here can answer it)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kelm import limits
from kelm.errors import ConfigError
from kelm.suggest import did_you_mean
from kelm.text import rows

ARTICLE, NONE = "article:", "none"


@dataclass(frozen=True, slots=True)
class Example:
    """One row. ``expect`` is the label of intents.csv, or what calibration.csv expects."""

    text: str
    expect: str

    @property
    def intent(self) -> str | None:
        return None if self.article or self.expect == NONE else self.expect

    @property
    def article(self) -> str | None:
        return self.expect.removeprefix(ARTICLE) if self.expect.startswith(ARTICLE) else None


def read_intents(path: Path) -> tuple[Example, ...]:
    """Raises ConfigError when it is missing or has less than two labels, InvalidRequest naming a malformed line."""
    found = tuple(example for _, example in _read(path, "label"))
    labels = sorted({example.expect for example in found})
    if len(labels) < 2:
        raise ConfigError(f"{path.name}: a classifier needs at least two labels, got {', '.join(labels) or 'no rows'}")
    return found


def read_calibration(path: Path, intents: Collection[str], articles: Collection[str]) -> tuple[Example, ...]:
    """Raises InvalidRequest, and ConfigError for a row that expects an intent or an article that there is not."""
    known = [*intents, *(ARTICLE + name for name in articles), NONE]
    for line, example in (found := _read(path, "expect")):
        if example.expect not in known:
            near = did_you_mean(example.expect, known)
            raise ConfigError(
                f"{path.name}:{line}: {limits.shown(example.expect)} is no intent, no article and not `none`{near}"
            )
    return tuple(example for _, example in found)


def read_text(path: Path) -> str:
    """A small file of the desk. Raises ConfigError when it isn't there or too large, InvalidRequest when not UTF-8."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(int(limits.SUPPORT_FILE_BYTES.most) + 1)
    except FileNotFoundError:
        near = did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
        raise ConfigError(f"{path.name} is missing in {path.parent}{near}") from None
    except OSError as error:
        raise ConfigError(f"{path.name} can't be read: {error.strerror}") from None
    if len(raw) > limits.SUPPORT_FILE_BYTES.most:
        raise ConfigError(f"{path.name}: over the limit of {limits.SUPPORT_FILE_BYTES.most} bytes")
    return rows.decode(raw, path.name)


def _read(path: Path, column: str) -> list[tuple[int, Example]]:
    """(line, row) of every row that isn't blank."""
    found = []
    for line, fields in rows.csv_rows(read_text(path), path.name, ("text", column)):
        at = f"{path.name}:{line}"
        text = rows.text_of(fields, "text", at).strip()
        if len(text) > limits.SUPPORT_MESSAGE_CHARS.most:
            raise ConfigError(f"{at}: text is longer than {limits.SUPPORT_MESSAGE_CHARS.most} characters")
        found.append((line, Example(text, rows.label_of(fields[column].strip(), at))))
    if len(found) > limits.SUPPORT_EXAMPLES.most:
        raise ConfigError(f"{path.name}: {len(found)} rows, the limit is {limits.SUPPORT_EXAMPLES.most}")
    return found
