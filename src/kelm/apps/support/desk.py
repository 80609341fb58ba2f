"""desk.yaml, and a whole folder read and checked before anything is started. The keys, with what they are for:

name: Juniper Lane               shown on the page
language: en                     en or zh: of the page when the browser asks for neither
models:                          names in Kelm's store, or none
  classifier: minilm@support     none: every question goes to the passages
  embedding: minilm              none: full text alone
  chat: none                     none: the best passage is quoted
handover:
  intent: person                 the label that means: I want a person
  words: [人工, 真人]             and words that mean it, whatever the classifier can read
thresholds:                      auto, or numbers from 0 to 1
  intent: auto                   auto: set by calibration.csv, else 0.75
  passage: auto                  auto: set by calibration.csv, else 0.5
  precision: 0.95                the share of right answers that auto asks for
tune:                            of the classifier, by --tune: as the options of `kelm tune`
  epochs: 6
  learning_rate: 0.001
  rank: 16
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kelm import limits
from kelm.apps.support import passages, templates
from kelm.apps.support.examples import Example, read_calibration, read_intents, read_text
from kelm.apps.support.fields import Fields, parse_yaml
from kelm.apps.support.passages import Article, Passage
from kelm.apps.support.templates import Template
from kelm.apps.support.texts import Language
from kelm.errors import ConfigError
from kelm.suggest import did_you_mean

FILE = "desk.yaml"
NONE, AUTO = "none", "auto"
_KEYS = ("name", "language", "models", "handover", "thresholds", "tune")
INTENT_DEFAULT, PASSAGE_DEFAULT, PRECISION_DEFAULT = 0.75, 0.5, 0.95


@dataclass(frozen=True, slots=True)
class Models:
    """Names in Kelm's store; None: none."""

    classifier: str | None
    embedding: str | None
    chat: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The thresholds that desk.yaml sets; None: auto."""

    intent: float | None
    passage: float | None
    precision: float


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder as it was when it was read."""

    folder: Path
    name: str
    language: Language
    models: Models
    person: str | None
    words: tuple[str, ...]
    wanted: Wanted
    tuning: Mapping[str, float]
    """Options of `kelm tune`; empty: its own."""
    intents: tuple[Example, ...]
    calibration: tuple[Example, ...]
    templates: Mapping[str, Template]
    articles: Mapping[str, Article]

    @property
    def passages(self) -> list[Passage]:
        return [passage for article in self.articles.values() for passage in article.passages]

    @property
    def labels(self) -> set[str]:
        return {example.expect for example in self.intents}


def read(folder: Path) -> Desk:
    """Raises ConfigError that names the file, the key or line, what was got and what to do."""
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder; a desk is one with {FILE}, intents.csv, templates.yaml and articles/"
        )
    top = Fields(FILE, parse_yaml(FILE, read_text(folder / FILE)), _KEYS)
    intents = read_intents(folder / "intents.csv")
    labels = {example.expect for example in intents}
    articles = _articles(folder / "articles")
    handover = Fields(f"{FILE}: handover", top.value("handover", {}), ("intent", "words"))
    calibration = folder / "calibration.csv"
    return Desk(
        folder=folder,
        name=top.text("name", most=60),
        language=cast(Language, top.one_of("language", ("en", "zh"), "en")),
        models=_models(top),
        person=_person(handover, labels),
        words=handover.texts("words", ()),
        wanted=_wanted(top),
        tuning=_tuning(top),
        intents=intents,
        calibration=read_calibration(calibration, labels, articles) if calibration.exists() else (),
        templates=templates.parse(parse_yaml(templates.FILE, read_text(folder / templates.FILE)), labels),
        articles=articles,
    )


def _models(top: Fields) -> Models:
    fields = Fields(f"{FILE}: models", top.value("models"), ("classifier", "embedding", "chat"))
    names = [fields.text(key, NONE) for key in ("classifier", "embedding", "chat")]
    return Models(*(None if name == NONE else name for name in names))


def _wanted(top: Fields) -> Wanted:
    fields = Fields(f"{FILE}: thresholds", top.value("thresholds", {}), ("intent", "passage", "precision"))
    automatic = [fields.value(key, AUTO) == AUTO for key in ("intent", "passage")]
    intent, passage = (
        None if auto else fields.number(key, limits.SUPPORT_SHARE)
        for key, auto in zip(("intent", "passage"), automatic, strict=True)
    )
    return Wanted(intent, passage, fields.number("precision", limits.SUPPORT_SHARE, PRECISION_DEFAULT))


def _tuning(top: Fields) -> dict[str, float]:
    bounds = {"epochs": limits.TUNE_EPOCHS, "learning_rate": limits.TUNE_RATE, "rank": limits.TUNE_RANK}
    fields = Fields(f"{FILE}: tune", top.value("tune", {}), tuple(bounds))
    found = {name: fields.number(name, bound) for name, bound in bounds.items() if name in fields.all()}
    return {name: int(value) if bounds[name].integer else value for name, value in found.items()}


def _person(handover: Fields, labels: set[str]) -> str | None:
    label = handover.value("intent", None)
    if label is not None and label not in labels:
        near = did_you_mean(str(label), labels)
        raise ConfigError(f"{FILE}: handover: intent {limits.shown(label)} is no label of intents.csv{near}")
    return None if label is None else str(label)


def _articles(folder: Path) -> dict[str, Article]:
    paths = sorted(folder.glob("*.md"))
    if not paths:
        raise ConfigError("articles/ is missing or holds no .md file: what the desk knows is written there")
    if len(paths) > limits.SUPPORT_ARTICLES.most:
        raise ConfigError(f"articles/: {len(paths)} files, the limit is {limits.SUPPORT_ARTICLES.most}")
    found = {article.name: article for article in map(passages.read, paths)}
    count = sum(len(article.passages) for article in found.values())
    if count > limits.SUPPORT_PASSAGES.most:
        raise ConfigError(f"articles/: {count} passages, the limit is {limits.SUPPORT_PASSAGES.most}")
    return found
