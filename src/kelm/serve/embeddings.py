"""POST /v1/embeddings: unit vectors, as floats or as base64 of little-endian float32."""

from __future__ import annotations

import base64

from starlette.responses import Response

from kelm.errors import InvalidRequest
from kelm.serve import replies
from kelm.serve.ports import Call, Model, answered_by
from kelm.serve.prompts import tokenize_all
from kelm.serve.requests import EmbeddingRequest
from kelm.serve.vectors import Vector, encode, first_task, shorten, usage


async def answer(call: Call, body: EmbeddingRequest) -> Response:
    with await call.enter(body.model, "embed", body.priority) as arrival:
        model = arrival.model
        task = first_task(model, "embed")
        _check_dimensions(body.dimensions, model)
        inputs = await tokenize_all(model, body.input, field="input")
        vectors = await encode(call, arrival, task, inputs)
    if body.dimensions is not None:
        vectors = [shorten(vector, body.dimensions) for vector in vectors]
    data = [
        {"object": "embedding", "index": index, "embedding": _shown(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    return replies.reply(
        {"object": "list", "data": data, "model": answered_by(body.model, model), "usage": usage(inputs)}
    )


def _check_dimensions(dimensions: int | None, model: Model) -> None:
    if dimensions is not None and dimensions > model.info.hidden:
        raise InvalidRequest(
            f"dimensions must be at most {model.info.hidden} for the model {model.name}, got {dimensions}",
            param="dimensions",
        )


def _shown(vector: Vector, encoding: str) -> str | list[float]:
    if encoding == "float":
        return [float(value) for value in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
