"""What has to be done before the first question: are the models there, are the passages embedded, how sure is sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from kelm.apps.support import index
from kelm.apps.support.answering import UNREADABLE, Answerer
from kelm.apps.support.calibration import Thresholds, Trial, shares, threshold
from kelm.apps.support.database import Connection, Database
from kelm.apps.support.desk import INTENT_DEFAULT, PASSAGE_DEFAULT, Desk
from kelm.apps.support.doors import Doors
from kelm.apps.support.index import Vectors
from kelm.apps.support.passages import Passage
from kelm.errors import ConfigError, ModelNotFound
from kelm.limits import shown
from kelm.suggest import did_you_mean

Say = Callable[[str], None]
"""Gets one line at a time about what is going on."""

_BATCH = 256
"""Passages embedded between two commits."""


async def prepare(desk: Desk, doors: Doors, database: Database, say: Say) -> Answerer:
    """Raises ConfigError for a model that is missing or of the wrong kind, and what the daemon answers."""
    made = {name: await _made(desk, doors, name) for name in _names(desk)}
    await _check_labels(desk, doors)
    await database.write(lambda db: index.store(db, desk.passages))
    vectors = None
    if desk.models.embedding is not None:
        vectors = await _embedded(desk, doors, database, say, made[desk.models.embedding])
    answerer = Answerer(desk, doors, database, Thresholds(0, 0), vectors)
    return Answerer(desk, doors, database, await calibrate(answerer, say), vectors)


async def calibrate(answerer: Answerer, say: Say) -> Thresholds:
    """From calibration.csv what desk.yaml leaves to auto."""
    wanted = answerer.desk.wanted
    intents, passages = await _intent_trials(answerer), await _passage_trials(answerer)
    found = Thresholds(
        threshold(intents, wanted.precision, INTENT_DEFAULT) if wanted.intent is None else wanted.intent,
        threshold(passages, wanted.precision, PASSAGE_DEFAULT) if wanted.passage is None else wanted.passage,
    )
    for name, trials, least in (("intent", intents, found.intent), ("passage", passages, found.passage)):
        answered, right, count = shares(trials, least)
        held_out = f": {right} of {answered} answers right, {count - answered} left open" if trials else ""
        say(f"{name} threshold {least:.3f}{held_out}")
    return found


async def _intent_trials(answerer: Answerer) -> list[Trial]:
    """Questions that the classifier can read and would answer, by a template or a person."""
    desk, model = answerer.desk, answerer.desk.models.classifier
    if model is None:
        return []
    unknown = [(example, await answerer.doors.unknown_share(model, example.text)) for example in desk.calibration]
    read = [example for example, share in unknown if share <= UNREADABLE]
    guesses = await answerer.doors.classify(model, [example.text for example in read]) if read else []
    return [
        Trial(guess.confidence, guess.label == example.expect)
        for guess, example in zip(guesses, read, strict=True)
        if guess.label in desk.templates or guess.label == desk.person
    ]


async def _passage_trials(answerer: Answerer) -> list[Trial]:
    """Questions that an article answers, and those that nothing here does."""
    found = []
    for example in answerer.desk.calibration:
        if example.intent is None:
            hits = await answerer.search(example.text)
            if hits:
                found.append(Trial(hits[0].confidence, hits[0].passage.article == example.article))
    return found


async def _made(desk: Desk, doors: Doors, name: str) -> int:
    try:
        return await doors.made(name)
    except ModelNotFound as error:
        base, _, variant = name.partition("@")
        advice = f"`kelm pull {name}` gets it, `kelm import FOLDER --name {name}` takes it from a folder"
        if variant:
            advice = f"`{_tune_command(desk, base, variant)}` makes it, and so does this command with --tune"
        raise ConfigError(f"{error.message.rstrip('.')}. {advice}", param=name) from None


def _tune_command(desk: Desk, base: str, variant: str) -> str:
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in desk.tuning.items())
    return f"kelm tune {base} {desk.folder / 'intents.csv'} --name {variant}{options} --wait"


async def _check_labels(desk: Desk, doors: Doors) -> None:
    """A classifier that was tuned on other labels would be sure of things that the desk has no word for."""
    model = desk.models.classifier
    if model is None:
        return
    first = {example.expect: example.text for example in reversed(desk.intents)}
    for intent in await doors.classify(model, list(first.values())):
        if intent.label not in desk.labels:
            near = did_you_mean(intent.label, desk.labels)
            raise ConfigError(
                f"{model} knows the label {shown(intent.label)}, which is not in intents.csv{near}; "
                "tune it again, on this file"
            )


async def _embedded(desk: Desk, doors: Doors, database: Database, say: Say, made: int) -> Vectors:
    """The passages' vectors; what was embedded before, by the same model, is not embedded again."""
    passages, name = desk.passages, str(desk.models.embedding)
    key = f"{name} {made}"
    missing = await database.read(lambda db: index.missing_vectors(db, key, passages))
    for start in range(0, len(missing), _BATCH):
        say(f"embedding passages: {start} of {len(missing)}")
        batch = missing[start : start + _BATCH]
        vectors = await doors.embed(name, [passage.embedded for passage in batch])
        await database.write(partial(_store_vectors, key, batch, vectors))
    await database.write(lambda db: index.drop_vectors(db, key, passages))
    return await database.read(lambda db: index.load_vectors(db, key, passages))


def _store_vectors(key: str, batch: Sequence[Passage], vectors: Vectors, db: Connection) -> None:
    index.store_vectors(db, key, batch, vectors)


def _names(desk: Desk) -> list[str]:
    models = desk.models
    return [name for name in (models.classifier, models.embedding, models.chat) if name is not None]
