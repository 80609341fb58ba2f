"""POST /score (vLLM's shape) and /rerank (Jina's and Cohere's): how well pairs of texts go together.

A classifier with one label reads both texts together (a cross-encoder); any other model that embeds gives the cosine
of the two embeddings.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from starlette.responses import Response

from kelm.errors import InvalidRequest
from kelm.serve import replies
from kelm.serve.ports import Arrival, Call, answered_by
from kelm.serve.prompts import check_context, off_loop, tokenize_all
from kelm.serve.requests import RerankRequest, ScoreRequest
from kelm.serve.vectors import cosine, encode, first_task, usage

Pairs = Sequence[tuple[str, str]]


async def answer_score(call: Call, body: ScoreRequest) -> Response:
    pairs = _pairs(body.text_1, body.text_2)
    with await call.enter(body.model, "embed", body.priority) as arrival:
        scores, tokens = await _scores(call, arrival, pairs)
    data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
    head = {
        "id": f"score-{uuid.uuid4().hex}",
        "object": "list",
        "created": call.now,
        "model": answered_by(body.model, arrival.model),
    }
    return replies.reply({**head, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


async def answer_rerank(call: Call, body: RerankRequest) -> Response:
    """Best first; documents with equal scores in the order in which they came."""
    with await call.enter(body.model, "embed", body.priority) as arrival:
        scores, tokens = await _scores(call, arrival, [(body.query, document) for document in body.documents])
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = [
        {
            "index": index,
            **({"document": {"text": body.documents[index]}} if body.return_documents else {}),
            "relevance_score": scores[index],
        }
        for index in order
    ]
    head = {"id": f"rerank-{uuid.uuid4().hex}", "model": answered_by(body.model, arrival.model)}
    return replies.reply({**head, "usage": {"total_tokens": tokens}, "results": results})


def _pairs(first: Sequence[str], second: Sequence[str]) -> Pairs:
    if len(first) == 1:
        first = list(first) * len(second)
    if len(first) != len(second):
        raise InvalidRequest(
            f"text_1 must be one text or as many as text_2 ({len(second)}), got {len(first)}", param="text_1"
        )
    return list(zip(first, second, strict=True))


async def _scores(call: Call, arrival: Arrival, pairs: Pairs) -> tuple[list[float], int]:
    """A score for each pair, and how many tokens were read for them."""
    model = arrival.model
    if len(model.info.labels) == 1 and "classify" in model.info.tasks:
        return await _read_together(call, arrival, pairs)
    first_task(model, "embed")
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    inputs = await tokenize_all(model, texts, field="text")
    vectors = dict(zip(texts, await encode(call, arrival, "embed", inputs), strict=True))
    return [cosine(vectors[one], vectors[other]) for one, other in pairs], usage(inputs)["total_tokens"]


async def _read_together(call: Call, arrival: Arrival, pairs: Pairs) -> tuple[list[float], int]:
    model = arrival.model
    size = sum(len(one) + len(other) for one, other in pairs)
    encoded = await off_loop(lambda: [model.tokenizer.encode_pair(*pair) for pair in pairs], size)
    inputs = [ids for ids, _ in encoded]
    for ids in inputs:
        check_context(model, len(ids), "text")
    results = await encode(call, arrival, "classify", inputs, [types for _, types in encoded])
    return [float(probs[0]) for probs in results], usage(inputs)["total_tokens"]
