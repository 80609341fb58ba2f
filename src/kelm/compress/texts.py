"""What perplexity is measured on: the user's text, or one that the source model writes.

A model's own text needs no data, and says what compression changed: the logarithm of perplexity after over perplexity
before is, per token, an estimate of the divergence (Kullback-Leibler) of the smaller model from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kelm.errors import InvalidRequest
from kelm.evaluate.scoring import begin_token, windows
from kelm.evaluate.tasks import Row, Task, read
from kelm.library import LLM, SamplingParams
from kelm.text.rows import decode

SAMPLED_BATCHES = 4
SAMPLED_AT_ONCE = 16
SAMPLED_TOKENS = 64
"""Of each text, at most."""
_PIECE_CHARACTERS = 8192
"""About so much of a plain text is one row: many rows show how far the work is."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """``windows``: each begins with a token that is only read. ``name``: what they are, for people."""

    name: str
    windows: tuple[list[int], ...]


def read_text(path: Path, name: str) -> Task:
    """A plain text, or JSON Lines of {"text": ...} where ``name`` ends in .jsonl. Raises InvalidRequest."""
    if name.endswith(".jsonl"):
        task = read(path, name=name)
        if task.kind != "perplexity":
            raise InvalidRequest(f'{name}: rows are of kind {task.kind}; perplexity needs rows of {{"text": ...}}')
        return task
    rows = tuple(Row(line, piece) for line, piece in _pieces(decode(path.read_bytes(), name)) if piece.strip())
    if not rows:
        raise InvalidRequest(f"{name}: there is no text in it")
    return Task(name, "perplexity", rows)


def tokens_of(llm: LLM, task: Task) -> Tokens:
    """The texts' tokens, as `kelm eval` would look at them."""
    return Tokens(task.name, tuple(ids for row in task.rows for ids in windows(llm, str(row.source))))


def sampled(llm: LLM, report: Callable[[int, int], None]) -> Tokens:
    """What ``llm`` writes from nothing: its own distribution, and always the same tokens."""
    start = begin_token(llm)
    made: list[list[int]] = []
    for batch in range(SAMPLED_BATCHES):
        report(batch, SAMPLED_BATCHES)
        params = SamplingParams(
            temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0,
            seed=batch, n=SAMPLED_AT_ONCE, max_tokens=min(SAMPLED_TOKENS, llm.info.max_context_tokens - 1),
        )  # fmt: skip
        made += [[start, *one.token_ids] for one in llm.generate([[start]], params)]
    return Tokens(f"{len(made)} texts that {llm.name} samples, with fixed seeds", tuple(made))


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """(line, piece): whole lines, up to about _PIECE_CHARACTERS."""
    held: list[str] = []
    size, first = 0, 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if size and size + len(line) > _PIECE_CHARACTERS:
            yield first, "".join(held)
            held, size, first = [], 0, number
        held.append(line)
        size += len(line)
    yield first, "".join(held)
