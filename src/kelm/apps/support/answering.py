"""One question -> one reply. Which way it goes is decided by numbers and the desk's own words before any text is
written, so nothing that a customer, an article or a model says can change it.

    a word that means a person ------------------------------------> hand-over (asked_for)
    waiting for a slot, and the message fills it ------------------> template
    the classifier can read it and is sure:  the person's intent --> hand-over (asked_for)
                                             one with a template --> template, or a question back for a slot
    the passages are sure -----------------------------------------> answer with sources
    else ----------------------------------------------------------> hand-over (nothing_found)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from msgspec.structs import replace

from kelm.apps.support import index, writing
from kelm.apps.support.calibration import Thresholds
from kelm.apps.support.database import Database
from kelm.apps.support.desk import Desk
from kelm.apps.support.doors import Doors, Intent
from kelm.apps.support.index import Hit, Vectors
from kelm.apps.support.made import Made, Pending, Reply, Source, Why
from kelm.apps.support.templates import Template, spoken
from kelm.apps.support.texts import Language, language_of
from kelm.apps.support.words import says
from kelm.errors import KelmError, Unavailable

log = logging.getLogger(__name__)

UNREADABLE = 0.25
"""A question with more of its tokens unknown to a model is not shown to it."""


@dataclass(frozen=True, slots=True)
class Answerer:
    """``vectors``: of the desk's passages, in their order; None without an embedding model."""

    desk: Desk
    doors: Doors
    database: Database
    thresholds: Thresholds
    vectors: Vectors | None = None

    async def answer(self, question: str, pending: Pending | None) -> Reply:
        """Never raises for a daemon that is away or fails: that is a hand-over too."""
        language = language_of(question, self.desk.language)
        made = Made("handover")
        if any(word.casefold() in question.casefold() for word in self.desk.words):
            return handover(made, "asked_for", language)
        filled = self._fill(question, pending)
        if filled is not None:
            return filled
        try:
            intent, made = await self._intent(question)
            reply = None if intent is None else self._by_intent(question, intent, made, language)
            return reply or await self._by_passages(question, made, language)
        except Unavailable:
            return handover(made, "no_answer" if self.doors.up else "no_daemon", language)
        except KelmError as error:
            log.warning("question_failed code=%s", error.code)
            return handover(made, "no_answer", language)

    def _fill(self, question: str, pending: Pending | None) -> Reply | None:
        """The reply to a message that gives the slot that was asked for; None when it doesn't, or nothing was."""
        template = self.desk.templates.get(pending.label) if pending else None
        if pending is None or template is None:
            return None
        given = template.values(question)
        if pending.slot not in given:
            return None
        made = Made("template", intent=pending.label)
        return _template(
            template, {**pending.values, **given}, made, pending.question, cast(Language, pending.language)
        )

    async def _intent(self, question: str) -> tuple[Intent | None, Made]:
        """The classifier's guess, sure or not; None without a classifier that can read the question."""
        model = self.desk.models.classifier
        if model is None:
            return None, Made("handover")
        if await self.doors.unknown_share(model, question) > UNREADABLE:
            return None, Made("handover", readable=False)
        (intent,) = await self.doors.classify(model, [question])
        return intent, Made(
            "handover",
            intent=intent.label,
            intent_confidence=round(intent.confidence, 4),
            intent_threshold=round(self.thresholds.intent, 4),
        )

    def _by_intent(self, question: str, intent: Intent, made: Made, language: Language) -> Reply | None:
        if intent.confidence < self.thresholds.intent:
            return None
        if intent.label == self.desk.person:
            return handover(made, "asked_for", language)
        template = self.desk.templates.get(intent.label)
        return None if template is None else _template(template, template.values(question), made, question, language)

    async def _by_passages(self, question: str, made: Made, language: Language) -> Reply:
        hits = await self.search(question)
        sure = hits[0].confidence if hits else 0.0
        made = replace(
            made,
            sources=[_source(hit) for hit in hits],
            passage_confidence=round(sure, 4),
            passage_threshold=round(self.thresholds.passage, 4),
        )
        if not hits or sure < self.thresholds.passage:
            return handover(made, "nothing_found", language)
        return await self._written(question, hits, made)

    async def _written(self, question: str, hits: list[Hit], made: Made) -> Reply:
        """By the chat model, if there is one and something of its answer has support; else quoted."""
        models = self.desk.models
        made = replace(made, route="passages")
        if models.chat is not None:
            written = await writing.by_model(self.doors, models.chat, self.desk.name, question, hits)
            made = replace(made, left_out=written.left_out)
            if written.text:
                return Reply(written.text, replace(made, written_by="model"))
        reader = None if hits[0].cosine is None else models.embedding
        return Reply(await writing.quoted(self.doors, reader, question, hits[0]), replace(made, written_by="passage"))

    async def search(self, question: str) -> list[Hit]:
        """The passages for a question, best first."""
        vector, model = None, self.desk.models.embedding
        if model is not None and await self.doors.unknown_share(model, question) <= UNREADABLE:
            vector = await self.doors.embed(model, [question])
        return await self.database.read(lambda db: index.search(db, question, self.vectors, vector))


def handover(made: Made, why: Why, language: Language) -> Reply:
    """The reply that opens a ticket."""
    return Reply(says(language, f"handover_{why}"), replace(made, route="handover", why=why))


def _template(template: Template, values: dict[str, str], made: Made, question: str, language: Language) -> Reply:
    """The filled template, or a question back for the first slot that is missing."""
    slot = template.missing(values)
    if slot is None:
        return Reply(template.fill(values, language), replace(made, route="template", slots=values))
    pending = Pending(template.label, slot.name, values, question, language)
    return Reply(spoken(slot.ask, language), replace(made, route="ask", slots=values), pending)


def _source(hit: Hit) -> Source:
    passage = hit.passage
    return Source(
        title=passage.title,
        heading=passage.heading,
        url=passage.url,
        text=passage.text,
        fused=round(hit.fused, 5),
        coverage=round(hit.coverage, 4),
        cosine=None if hit.cosine is None else round(hit.cosine, 4),
        bm25=None if hit.bm25 is None else round(hit.bm25, 3),
    )
