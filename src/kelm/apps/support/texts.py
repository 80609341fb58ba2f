"""Text as the desk searches and compares it: its terms, its sentences, its language.

Chinese is written without spaces, so a run of its characters becomes overlapping pairs: 退货政策 -> 退货 货政 政策.
What only asks (怎么, how) or only joins (的, the) is no term.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["en", "zh"]

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
_RUN = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_HAN_ONLY = re.compile(rf"[{_HAN}]+")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_ASKING = re.compile(
    "请问|怎么样|怎么办|怎么|如何|为什么|什么|多少|多久|有没有|是不是|能不能|可不可以|可以|我们|你们|您们|他们|哪些|哪里|"
    "[的了吗呢吧啊我你您他她它是在和与及或都也就还请想要能会把被给]"
)
_JOINING_WORDS = """
    a about after all also am an and any are as at be been before being but by can could did do does doing done
    for from get go got had has have having he her here hers him his how i if im in into is it its ive just let like
    make may me might more most much my no not now of off on one only or other our out over please put really shall
    she should so some something such tell than thank thanks that the their them then there these they thing things
    this those to too up us very want was we were what when where which while who whom whose why will with would yes
    you your youre cant dont doesnt didnt isnt wont couldnt wouldnt hello hi hey
"""
_JOINING = frozenset(_JOINING_WORDS.split())
_END = re.compile(rf"(?<=[.!?])\s+(?=[\"'“(A-Z0-9{_HAN}])|(?<=[。！？])\s*")
_STOP = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[^\W_]+")
_BULLET = re.compile(r"^(?:[-*•]|\d{1,2}[.)])\s+")
_ENDINGS = ("ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")
_NEGATIONS = re.compile(r"\b(?:no|not|never|none|nor|neither|without|cannot|nothing)\b|n['’]t\b|[不没无未别非]")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_CHINESE_SHARE = 0.3


def terms(text: str) -> list[str]:
    """What full text is searched by, in order, repeated as often as it comes: words in small letters, pairs of Han."""
    found: list[str] = []
    for run in _RUN.findall(_APOSTROPHE.sub("", _ASKING.sub(" ", text))):
        if not _HAN_ONLY.fullmatch(run):
            word = run.casefold()
            found += [word] if word not in _JOINING else []
        elif len(run) == 1:
            found.append(run)
        else:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
    return found


def stems(text: str) -> set[str]:
    """The terms without their commonest English endings, to compare sentences by."""
    return {_stem(term) for term in terms(text)}


def _stem(word: str) -> str:
    if not word.isascii():
        return word
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, each as it stands; a line or an item of a list ends one too."""
    lines = (_BULLET.sub("", line.strip()) for line in text.splitlines())
    return [sentence.strip() for line in lines for sentence in _END.split(line) if sentence.strip()]


def pieces(text: str) -> list[str]:
    """As `sentences`, but every full stop before a blank ends one: nothing hangs on to a sentence unseen."""
    return [piece.strip() for sentence in sentences(text) for piece in _STOP.split(sentence) if piece.strip()]


def names(text: str) -> set[str]:
    """Stems of the words with a capital letter, but for the first word."""
    return {stem for word in _WORD.findall(text)[1:] if word[0].isupper() for stem in stems(word)}


def numbers(text: str) -> set[str]:
    """Every number, as it is written."""
    return set(_NUMBER.findall(text))


def negated(text: str) -> bool:
    """Whether the text denies something."""
    return _NEGATIONS.search(text.casefold()) is not None


def language_of(text: str, default: Language = "en") -> Language:
    """Chinese or not, by the share of Han among its letters; ``default`` for a text without letters."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return default
    han = sum(1 for character in letters if _HAN_ONLY.match(character))
    return "zh" if han >= _CHINESE_SHARE * len(letters) else "en"
