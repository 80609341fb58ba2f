"""The figures. Each takes plain numbers and texts, so that it can be checked by hand.

perplexity       Jelinek et al. 1977; bytes as lm-evaluation-harness counts them (byte_perplexity, bits_per_byte)
F1               van Rijsbergen 1979, macro and micro as scikit-learn averages them
BLEU             Papineni et al. 2002, by sacrebleu (Post 2018), 0 to 100
ROUGE-1, 2, L    Lin 2004, by Google's rouge-score, F1, 0 to 1
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

_LARGEST_EXPONENT = 709.0  # of math.exp


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One row of the per-class report. ``support``: rows whose right label this is."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class Classification:
    """``confusion[i][j]``: rows of label i (in ``classes``' order) that were given label j."""

    accuracy: float
    macro_f1: float
    micro_f1: float
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


def perplexity(logprob_nats: float, tokens: int, text_bytes: int) -> dict[str, float]:
    """Of texts with this many tokens and UTF-8 bytes, whose tokens' log-probabilities add up to ``logprob_nats``."""
    return {
        "perplexity": _exp(-logprob_nats / tokens),
        "byte_perplexity": _exp(-logprob_nats / text_bytes),
        "bits_per_byte": -logprob_nats / text_bytes / math.log(2),
    }


def classification(right: Sequence[str], given: Sequence[str], order: Sequence[str]) -> Classification:
    """Over the labels of ``order`` that are right or given somewhere. A class that is never given has precision 0,
    one that is never right recall 0, and F1 is 0 where both are."""
    assert len(right) == len(given) > 0
    used = {*right, *given}
    labels = [label for label in order if label in used]
    place = {label: i for i, label in enumerate(labels)}
    matrix = [[0] * len(labels) for _ in labels]
    for one, other in zip(right, given, strict=True):
        matrix[place[one]][place[other]] += 1
    classes = tuple(_class(labels[i], matrix, i) for i in range(len(labels)))
    hits = sum(matrix[i][i] for i in range(len(labels)))
    misses = len(right) - hits  # each is a false positive of one class and a false negative of another
    return Classification(
        accuracy=hits / len(right),
        macro_f1=sum(figures.f1 for figures in classes) / len(classes),
        micro_f1=2 * hits / (2 * hits + misses + misses),
        classes=classes,
        confusion=tuple(map(tuple, matrix)),
    )


def generation(outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Of each output against its one reference: corpus BLEU, and means of exact match and ROUGE F1.

    Chinese and Japanese characters count as words of their own, in BLEU (sacrebleu's zh) and in ROUGE.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    assert len(outputs) == len(references) > 0
    cut = "zh" if any(_IDEOGRAPH.search(reference) for reference in references) else "13a"
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())
    pairs = list(zip(outputs, references, strict=True))
    scores = [scorer.score(reference, output) for output, reference in pairs]
    return {
        "exact_match": sum(output.strip() == reference.strip() for output, reference in pairs) / len(pairs),
        "bleu": BLEU(tokenize=cut).corpus_score(list(outputs), [list(references)]).score,
        **{name: sum(score[name].fmeasure for score in scores) / len(pairs) for name in scorer.rouge_types},
    }


_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_IDEOGRAPH = re.compile(f"[{_CJK}]")
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


class _Words:
    """rouge-score's own tokenizer drops every letter outside a-z; on ASCII text this one gives the same words."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def _class(label: str, matrix: Sequence[Sequence[int]], i: int) -> ClassFigures:
    hits, support, given = matrix[i][i], sum(matrix[i]), sum(row[i] for row in matrix)
    return ClassFigures(
        label=label,
        precision=hits / given if given else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (support + given),
        support=support,
    )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats <= _LARGEST_EXPONENT else math.inf
