"""templates.yaml: answers that are written once, with slots for what differs from customer to customer.

    slots:
      order_id:
        pattern: '\\bJL-?(\\d{6})\\b'       a regular expression; its first group, if it has one, is the value
        ask: {en: "...", zh: "..."}       what to ask when the question does not say it
    answers:
      order_status: {en: "Order {order_id} ...", zh: "..."}
      discount_code: "one text for every language"

A pattern is run on what strangers write, so it may not take long whatever they write: repeats have an end ({1,20}
instead of + and *), no group is repeated, and the ways to match that are left ({1,20} has 20, ? and | have 2 each)
multiply to a bound.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kelm import limits
from kelm.apps.support.fields import Fields
from kelm.apps.support.texts import Language
from kelm.errors import ConfigError
from kelm.suggest import did_you_mean

FILE = "templates.yaml"
_SLOT = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_QUOTED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.S)
_REPEAT = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")

Texts = Mapping[str, str]
"""Language -> text; the key "" stands for every language."""


def spoken(texts: Texts, language: Language) -> str:
    """The text in ``language``, else in English, else in whatever there is."""
    return next(texts[key] for key in (language, "", "en", *texts) if key in texts)


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    pattern: re.Pattern[str]
    ask: Texts

    def find(self, text: str) -> str | None:
        """The value that ``text`` gives, if it does."""
        found = self.pattern.search(text)
        return None if found is None else found.group(1 if self.pattern.groups else 0)


@dataclass(frozen=True, slots=True)
class Template:
    """The answer to an intent. ``slots`` in the order in which they are asked for."""

    label: str
    texts: Texts
    slots: tuple[Slot, ...]

    def values(self, text: str) -> dict[str, str]:
        """The slots that ``text`` fills."""
        found = ((slot.name, slot.find(text)) for slot in self.slots)
        return {name: value for name, value in found if value is not None}

    def missing(self, values: Mapping[str, str]) -> Slot | None:
        """The first slot without a value."""
        return next((slot for slot in self.slots if slot.name not in values), None)

    def fill(self, values: Mapping[str, str], language: Language) -> str:
        """The answer. A value is put in as it is: what looks like a slot in it stays text."""
        return _SLOT.sub(lambda match: values[match[1]], spoken(self.texts, language))


def parse(value: Any, intents: Collection[str]) -> dict[str, Template]:
    """Label -> template. Raises ConfigError naming the key, what was got and what is near."""
    top = Fields(FILE, value, ("slots", "answers"))
    slots = {name: _slot(name, raw) for name, raw in top.mapping("slots", {}).items()}
    answers = top.mapping("answers")
    for label in answers:
        if label not in intents:
            raise ConfigError(
                f"{FILE}: answers: {limits.shown(label)} is no label of intents.csv{did_you_mean(label, intents)}"
            )
    return {label: _template(label, raw, slots) for label, raw in answers.items()}


def _template(label: str, raw: Any, slots: Mapping[str, Slot]) -> Template:
    at = f"answers: {label}"
    texts = _texts(at, raw)
    named = dict.fromkeys(name for text in texts.values() for name in _SLOT.findall(text))
    for name in named:
        if name not in slots:
            raise ConfigError(f"{FILE}: {at}: there is no slot {{{name}}}{did_you_mean(name, slots)}")
    if len(named) > limits.SUPPORT_SLOTS.most:
        raise ConfigError(f"{FILE}: {at}: {len(named)} slots, the limit is {limits.SUPPORT_SLOTS.most}")
    return Template(label, texts, tuple(slots[name] for name in named))


def _slot(name: str, raw: Any) -> Slot:
    at = f"slots: {name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{FILE}: {at}: a slot's name is small letters, digits and _, got {limits.shown(name)}")
    fields = Fields(f"{FILE}: {at}", raw, ("pattern", "ask"))
    return Slot(
        name,
        _pattern(f"{at}: pattern", fields.text("pattern", most=int(limits.SUPPORT_PATTERN_CHARS.most))),
        _texts(f"{at}: ask", fields.value("ask")),
    )


def _texts(at: str, raw: Any) -> Texts:
    texts = {"": raw} if isinstance(raw, str) else Fields(f"{FILE}: {at}", raw, ("en", "zh")).all()
    for language, text in texts.items():
        if not isinstance(text, str) or not text.strip() or len(text) > limits.SUPPORT_TEMPLATE_CHARS.most:
            where = f"{at}: {language}" if language else at
            raise ConfigError(
                f"{FILE}: {where} must be text of at most {limits.SUPPORT_TEMPLATE_CHARS.most} characters, "
                f"got {limits.shown(text)}"
            )
    if not texts:
        raise ConfigError(f"{FILE}: {at} is empty")
    return {language: text.strip() for language, text in texts.items()}


def _pattern(at: str, text: str) -> re.Pattern[str]:
    """The compiled pattern, if it can't run for long: see the top of this file."""
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{FILE}: {at}: not a regular expression: {error}") from None
    bare = _QUOTED.sub("x", text)
    complaint = _complaint(bare)
    if complaint:
        raise ConfigError(f"{FILE}: {at}: {complaint}")
    if pattern.search("") is not None:
        raise ConfigError(f"{FILE}: {at}: it matches an empty text, so it would match everything")
    return pattern


def _complaint(bare: str) -> str | None:
    """``bare``: the pattern with every escape and every [class] written as x."""
    if "*" in bare or "+" in bare:
        return "+ and * have no end; write {1,20}, or how many there can be"
    if re.search(r"\)\s*\{", bare):
        return "a group may not be repeated; write it out"
    if re.search(r"\(\?(?!:|P<)", bare):
        return "only plain groups, (?:...) and (?P<name>...) are allowed"
    ways = 2 ** (bare.count("?") - bare.count("(?") + bare.count("|"))
    for least, comma, most in _REPEAT.findall(bare):
        if comma and not most:
            return f"{{{least},}} has no end; write {{{least},20}}, or how many there can be"
        ways *= int(most or least or 0) - int(least or 0) + 1
    bound = limits.SUPPORT_PATTERN_WAYS.most
    return f"it can match in {ways} ways, the limit is {bound}; shorten its repeats" if ways > bound else None
