"""Log-probabilities (nats) that a decoder gives to texts and to answers."""

from __future__ import annotations

from collections.abc import Sequence

from kelm.errors import UnsupportedModel
from kelm.library import LLM, SamplingParams

_SCORE = SamplingParams(max_tokens=0, prompt_logprobs=0, temperature=0.0, seed=0)


def text_logprobs(llm: LLM, texts: Sequence[str]) -> list[list[float]]:
    """Of each text's tokens, all of them: the first follows the token that begins a text (or ends one, where the model
    has no such), as in lm-evaluation-harness. A text longer than the context is cut (``windows``)."""
    cut = [(number, ids) for number, text in enumerate(texts) for ids in windows(llm, text)]
    scored: list[list[float]] = [[] for _ in texts]
    for (number, _), made in zip(cut, logprobs(llm, [ids for _, ids in cut]), strict=True):
        scored[number] += made
    return scored


def windows(llm: LLM, text: str) -> list[list[int]]:
    """A text's tokens in windows that don't overlap; each window's first token is only read.

    begin a b c | c d e f | f g        context of 4
    """
    context = llm.info.max_context_tokens
    ids = [begin_token(llm), *_bare(llm, text)]
    return [ids[at : at + context] for at in range(0, len(ids) - 1, context - 1)]


def answer_logprobs(llm: LLM, texts: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
    """Of each answer after each text, a space between them: the sum over the answer's tokens.

    The answers are compared from the first token in which they can differ, so that a tokenizer which merges the end of
    the text with one of them treats them alike.
    """
    begin = begin_token(llm)
    prompts: list[list[int]] = []
    starts: list[int] = []
    for text in texts:
        bare = text.rstrip()
        wholes = [[begin, *_bare(llm, f"{bare} {answer}")] for answer in answers]
        starts.append(_shared([[begin, *_bare(llm, bare)], *wholes]))
        prompts += wholes
    made = iter(logprobs(llm, prompts))
    # Entry i is of token i + 1: nothing comes before the first.
    return [{answer: sum(next(made)[start - 1 :]) for answer in answers} for start in starts]


def logprobs(llm: LLM, prompts: Sequence[list[int]]) -> list[list[float]]:
    """Of each prompt's tokens but the first."""
    made = llm.generate(prompts, _SCORE)
    return [[entry.logprob for entry in completion.prompt_logprobs or () if entry is not None] for completion in made]


def _bare(llm: LLM, text: str) -> list[int]:
    return llm.tokenizer.encode(text, add_special_tokens=False)


def begin_token(llm: LLM) -> int:
    """The token that a text's first one follows. Raises UnsupportedModel where there is none."""
    tokenizer = llm.tokenizer
    token = next(iter(tokenizer.eos_ids), None) if tokenizer.bos_id is None else tokenizer.bos_id
    if token is None:
        raise UnsupportedModel(
            f"{llm.name} has no token that begins or ends a text, which its first token would follow"
        )
    return token


def _shared(several: Sequence[list[int]]) -> int:
    """How many tokens all of them begin with."""
    count = 0
    for tokens in zip(*several, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
