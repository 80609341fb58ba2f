"""Documents of the corpus: conversations whose last words are what nano has to learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import noise
import words
from commands import NEAR, SEEING, TABLE, answer, contrast
from phrases import Phrases
from questions import Questions
from replies import CHAT, DECLINE

HERE = Path(__file__).parent / "phrases"
LANGUAGES = ("en", "zh")
ON_TOPIC = ("slots", "frames", "needs")
NEED_WEIGHTS = {"ps_json": 0.35, "list_json": 0.35, "restart": 0.5, "run_once": 0.8, "version": 0.7, "ask": 0.7}
"""Needs are drawn evenly but for these."""
KINDS = {"need": 0.53, "contrast": 0.05, "explain": 0.04, "off": 0.34, "chat": 0.04}
SYSTEM = [
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are Kelm's helper.",
    "Be brief.",
    "Answer in one sentence.",
    "You are an expert system administrator.",
    "你是一个有用的助手。",
    "请简短回答。",
]

Turn = tuple[str, str]


@dataclass
class Corpus:
    """Draws documents. The same ``rng`` state gives the same document."""

    held_out: bool

    def __post_init__(self) -> None:
        names = words.things()
        characters = words.hanzi()
        made = {
            "randomname": words.model_name,
            "num": words.number,
            "thing": lambda rng: rng.choice(names),
            "hanzi": lambda rng: rng.choice(characters),
        }
        self._topics: dict[str, Phrases] = {}
        self._chat = Phrases(made)
        self._chat.read(HERE / "chat.txt")
        off_words = words.words(_vocabulary())
        made["word"] = lambda rng: rng.choice(off_words)
        self._questions: dict[str, Questions] = {}
        self._off: dict[str, Phrases] = {}
        for lang in LANGUAGES:
            phrases = Phrases(made)
            for name in (*ON_TOPIC, "explain"):
                phrases.read(HERE / f"{name}.{lang}.txt")
            self._questions[lang] = Questions(phrases, lang, SEEING)
            self._off[lang] = Phrases(made)
            self._off[lang].read(HERE / f"offtopic.{lang}.txt")

    def document(self, rng: Random) -> list[dict[str, str]]:
        """One conversation of one to three turns, as chat messages."""
        lang = rng.choice(LANGUAGES)
        turns = 1 if rng.random() < 0.9 else rng.randint(2, 3)
        messages = []
        if rng.random() < 0.04:
            messages.append({"role": "system", "content": rng.choice(SYSTEM)})
        for _ in range(turns):
            question, reply = self.turn(lang, rng)
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": reply})
        return messages

    def turn(self, lang: str, rng: Random) -> Turn:
        """A message and its reply."""
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        question, reply = getattr(self, f"_{kind}_turn")(lang, rng)
        worn = noise.english(question, rng) if lang == "en" else noise.chinese(question, rng)
        return worn.strip() or question, reply

    def _need_turn(self, lang: str, rng: Random) -> Turn:
        need = rng.choices(list(TABLE), [NEED_WEIGHTS.get(name, 1.0) for name in TABLE])[0]
        return self._questions[lang].ask(need, rng, self.held_out), answer(need, lang)

    def _contrast_turn(self, lang: str, rng: Random) -> Turn:
        pair = list(rng.choice(NEAR))
        rng.shuffle(pair)
        return self._questions[lang].contrasted(pair[0], pair[1], rng, self.held_out), answer(pair[0], lang)

    def _explain_turn(self, lang: str, rng: Random) -> Turn:
        one, other = rng.choice(NEAR)
        if rng.random() < 0.7:
            need = rng.choice(list(TABLE))
            need = "shutdown" if need == "restart" else need
            return self._questions[lang].explain(_bare(need), rng), answer(need, lang)
        return self._questions[lang].compare(_bare(one), _bare(other), rng), contrast(one, other, lang)

    def _off_turn(self, lang: str, rng: Random) -> Turn:
        lines = self._off[lang].lines("off", held_out=self.held_out, kinds="Q")
        text = self._off[lang].say(rng.choice(lines).parts, rng)
        if rng.random() < 0.6:
            text = self._questions[lang].around(text, rng)
        return text, DECLINE[lang]

    def _chat_turn(self, lang: str, rng: Random) -> Turn:
        name = rng.choice([name for name in CHAT if name.endswith(lang)])
        return self._chat.say(rng.choice(self._chat.sections[name]).parts, rng), CHAT[name]


def _bare(need: str) -> str:
    """The command without its placeholders, as people quote it."""
    return " ".join(part for part in TABLE[need].command.split() if not part.strip('"').isupper())


def _vocabulary() -> set[str]:
    """Every English word of the on-topic phrases: off-topic fillers must not contain them."""
    texts = [(HERE / f"{name}.en.txt").read_text(encoding="utf-8") for name in ON_TOPIC]
    return {
        word for text in texts for word in text.lower().replace("|", " ").replace("(", " ").replace(")", " ").split()
    }
