"""Puts openers, situations and closers around a need."""

from __future__ import annotations

from random import Random

from phrases import Phrases

_DOUBLED = {"run", "stop", "get", "put", "set", "shut", "quit", "begin", "drop", "chat", "grab", "dump"}

UNCLEAR = {"ps_models", "show", "list_json", "ps_json", "config_show", "restart", "pretrain"}
"""Needs whose situations could lead elsewhere, and are always followed by what is wanted."""


def _inflected(need: str, ending: str) -> str:
    """``need`` with its first verb as a gerund ("ing") or third person ("s"), by the regular rules."""
    verb, space, rest = need.partition(" ")
    if not verb.isalpha():
        return need
    if ending == "ing":
        stem = (
            verb[:-1]
            if verb.endswith("e") and not verb.endswith(("ee", "ye"))
            else verb + verb[-1] * (verb in _DOUBLED)
        )
        return stem + "ing" + space + rest
    return verb + ("es" if verb.endswith(("s", "x", "ch", "sh")) else "s") + space + rest


class Questions:
    """Makes whole questions out of needs; ``lang`` is "en" or "zh"."""

    def __init__(self, phrases: Phrases, lang: str, seeing: set[str]) -> None:
        self._phrases, self._lang, self._seeing = phrases, lang, seeing

    def _frame(self, kind: str, rng: Random, **parts: str) -> str:
        text = self._phrases.pick(kind, rng)
        for name, value in parts.items():
            text = text.replace("{" + name + "}", value)
        return text

    def need(self, section: str, rng: Random, held_out: bool, kinds: str) -> tuple[str, str]:
        """A need of ``section``: its kind and its words."""
        lines = self._phrases.lines(section, held_out=held_out, kinds=kinds)
        lines = lines or self._phrases.lines(section, held_out=False, kinds=kinds)
        weights = [{"V": 1.0, "Q": 1.3, "N": 2.0, "S": 1.5}[line.kind] for line in lines]
        line = rng.choices(lines, weights)[0]
        return line.kind, self._phrases.say(line.parts, rng)

    def ask(self, section: str, rng: Random, held_out: bool) -> str:
        """A question whose answer is ``section``."""
        kind, words = self.need(section, rng, held_out, "VNQS")
        text = self._about(section, words, rng, held_out) if kind == "S" else self._framed(section, kind, words, rng)
        return self.around(text, rng)

    def _about(self, section: str, situation: str, rng: Random, held_out: bool) -> str:
        """A situation, and what is wanted in it: said, or left to be understood."""
        if section not in UNCLEAR and rng.random() < 0.45:
            return situation + self._phrases.pick("now", rng)
        kind, words = self.need(section, rng, held_out, "VNQ")
        wanted = self._framed(section, kind, words, rng)
        if rng.random() < 0.2:
            situation, wanted = wanted.rstrip("?"), situation
        return self._joined(situation + self._phrases.pick("join", rng), wanted)

    def _joined(self, first: str, second: str) -> str:
        return first + (" " if self._lang == "en" else "") + second

    def _framed(self, section: str, kind: str, words: str, rng: Random) -> str:
        if kind == "V":
            forms = {"V": words}
            if self._lang == "en":
                forms |= {"Ving": _inflected(words, "ing"), "Vs": _inflected(words, "s")}
            return self._frame("v", rng, **forms)
        if kind == "N":
            return self._frame("s" if section in self._seeing and rng.random() < 0.75 else "n", rng, N=words)
        return words

    def contrasted(self, section: str, other: str, rng: Random, held_out: bool) -> str:
        """A question about ``section`` that also names ``other``, which is not wanted."""
        _, wanted = self.need(section, rng, held_out, "V")
        _, unwanted = self.need(other, rng, held_out, "V")
        return self.around(self._frame("neg", rng, V=wanted, W=unwanted), rng)

    def explain(self, command: str, rng: Random) -> str:
        """A question about a command that is named."""
        quoted = rng.choice([command, command, f"`{command}`", f'"{command}"', command.removeprefix("kelm ")])
        return self._phrases.pick("explain", rng).format(quoted)

    def compare(self, one: str, other: str, rng: Random) -> str:
        """A question about the difference of two commands."""
        return self._phrases.pick("compare", rng).format(one, other)

    def around(self, text: str, rng: Random) -> str:
        """``text`` with an opener and a closer, sometimes."""
        if rng.random() < 0.25:
            text = self._joined(self._phrases.pick("before", rng), text)
        if rng.random() < 0.65 and text[-1:] not in "?.!。?!":
            text += self._phrases.pick("after", rng)
        return text
