"""Words that every Python carries: the names of emoji and of radicals, and the common characters of GB 2312.

They give off-topic questions a breadth that no list written by hand would have."""

from __future__ import annotations

import re
import unicodedata
from random import Random

_EMOJI = [(0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F910, 0x1F9FF)]
"""Ranges that were full in Unicode 14, so that every Python from 3.11 on gives the same names."""
_RADICALS = (0x2F00, 0x2FD5)
_DULL = {"with", "and", "of", "the", "sign", "symbol", "face", "button", "for", "mark", "black", "white"}
_ENDINGS = ["", "", "", "-7b", "-1b", "-3b", "-instruct", "-chat", "-v2", ":latest", ":v1", ":q4", "2", "3"]
_ENDINGS += ["-mini", "-0.5b", "-base"]


def things() -> list[str]:
    """Lower-case English names of things, animals, food, jobs, sports and basic notions; about 1,400."""
    names = [unicodedata.name(chr(code)).lower() for low, high in _EMOJI for code in range(low, high + 1)]
    first, last = _RADICALS
    names += [unicodedata.name(chr(code)).lower().removeprefix("kangxi radical ") for code in range(first, last + 1)]
    return sorted({name for name in names if not re.search(r"\d|modifier|squared|circled", name)})


def words(avoid: set[str]) -> list[str]:
    """The single words of those names, without ``avoid``: the vocabulary of the on-topic phrases."""
    found = {word for name in things() for word in re.findall(r"[a-z]{3,}", name)}
    return sorted(found - avoid - _DULL)


def hanzi() -> list[str]:
    """The 3,755 common characters of GB 2312's first level."""
    rows = (bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return [pair.decode("gb2312") for pair in rows if pair < b"\xd7\xfa"]


def model_name(rng: Random) -> str:
    """A name that no model has, so that no particular name comes to mean anything."""
    consonants, vowels = "bcdfghjklmnprstvwxz", "aeiou"
    stem = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(1, 3)))
    stem += rng.choice(["", "n", "r", "x", "ll", "gpt", "-lm", "st", "llm", "net", "bert"])
    name = stem + rng.choice(_ENDINGS)
    owner = rng.choice(["", "", "", "", "acme/", "my-org/", "lab/", "deep/"])
    return owner + (name.capitalize() if rng.random() < 0.15 else name)


def number(rng: Random) -> str:
    return str(
        rng.choice([rng.randint(2, 99), rng.randint(100, 2100), rng.randint(1024, 65000), 8000, 8080, 9000, 5000])
    )
