"""POST /classify: labels of a text (vLLM's shape), or of its tokens and the spans they make.

Spans follow transformers' ``aggregation_strategy="simple"``: neighbours with the same label, B- and I- taken off, are
one span, a B- begins a new one, O is none; its score is the mean of its tokens' probabilities.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
from starlette.responses import Response

from kelm.serve import replies
from kelm.serve.inputs import Prompt
from kelm.serve.ports import Arrival, Call, Json, Model, answered_by
from kelm.serve.prompts import check_context, off_loop, tokenize, tokenize_all
from kelm.serve.requests import ClassifyRequest
from kelm.serve.vectors import Vector, encode, first_task, usage

Offsets = list[tuple[int, int]]
"""For each token the characters [start, end) of the text it stands for; start == end for special tokens."""


async def answer(call: Call, body: ClassifyRequest) -> Response:
    with await call.enter(body.model, "classify", body.priority) as arrival:
        data, inputs = await _data(call, body, arrival)
    head = {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": call.now,
        "model": answered_by(body.model, arrival.model),
    }
    return replies.reply({**head, "data": data, "usage": usage(inputs)})


async def _data(call: Call, body: ClassifyRequest, arrival: Arrival) -> tuple[list[Json], list[list[int]]]:
    """An entry for each input, and the inputs' tokens."""
    model = arrival.model
    if first_task(model, "classify", "token_classify") == "classify":
        inputs = await tokenize_all(model, body.input, field="input")
        results = await encode(call, arrival, "classify", inputs)
        return [_sequence(index, probs, model.info.labels) for index, probs in enumerate(results)], inputs
    located = [await _locate(model, prompt) for prompt in body.input]
    inputs = [ids for ids, _ in located]
    results = await encode(call, arrival, "token_classify", inputs)
    parts = zip(body.input, located, results, strict=True)
    data = [_tokens(index, model, prompt, offsets, probs) for index, (prompt, (_, offsets), probs) in enumerate(parts)]
    return data, inputs


def _sequence(index: int, probs: Vector, labels: Sequence[str]) -> Json:
    best = int(np.argmax(probs))
    return {"index": index, "label": labels[best], "probs": [float(p) for p in probs], "num_classes": len(probs)}


async def _locate(model: Model, prompt: Prompt) -> tuple[list[int], Offsets]:
    """Ids and where they are in the text. Token ids have no text but the one they decode to."""
    if isinstance(prompt, str):
        pairs = await off_loop(lambda: model.tokenizer.encode_offsets(prompt), len(prompt))
        ids, offsets = [token for token, _ in pairs], [where for _, where in pairs]
    else:
        ids = await tokenize(model, prompt, field="input")
        offsets = [(0, 0)] * len(ids)
    check_context(model, len(ids), "input")
    return ids, offsets


def _tokens(index: int, model: Model, prompt: Prompt, offsets: Offsets, probs: Vector) -> Json:
    """``probs``: [tokens, labels]. Special tokens, which stand for no text, are left out of a text's answer."""
    labels = model.info.labels
    text = prompt if isinstance(prompt, str) else None
    rows = []
    for place, (start, end) in enumerate(offsets):
        if text is not None and start == end:
            continue
        best = int(np.argmax(probs[place]))
        where = {} if text is None else {"start": start, "end": end, "text": text[start:end]}
        row = {"token": place, "label": labels[best], "score": float(probs[place, best]), **where}
        rows.append({**row, "probs": [float(p) for p in probs[place]]})
    answer: Json = {"index": index, "num_classes": len(labels), "tokens": rows}
    return answer if text is None else {**answer, "spans": spans(rows, text)}


def spans(rows: Sequence[Json], text: str) -> list[Json]:
    """Rows with label, score, start and end, in order -> spans with label, score, start, end and text."""
    found: list[Json] = []
    scores: list[float] = []
    previous = ""
    for row in rows:
        begins, name = _split(row["label"])
        if name and (begins or name != previous):
            found.append({"label": name, "start": row["start"]})
            scores = []
        if name:
            scores.append(row["score"])
            span = found[-1]
            span |= {"end": row["end"], "text": text[span["start"] : row["end"]], "score": sum(scores) / len(scores)}
        previous = name
    return found


def _split(label: str) -> tuple[bool, str]:
    """'B-PER' -> (True, 'PER'), 'I-PER' -> (False, 'PER'), 'O' -> (False, ''), 'PER' -> (False, 'PER')."""
    if label == "O":
        return False, ""
    return label.startswith("B-"), label[2:] if label[:2] in ("B-", "I-") else label
