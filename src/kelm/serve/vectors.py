"""What the encoder doors share: one batch through the kernel, and the arithmetic on what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kelm.errors import UnsupportedModel
from kelm.kernel.requests import Encoding
from kelm.serve.ports import Arrival, Call, Json, Model

Vector = NDArray[np.float32]
Task = Literal["embed", "classify", "token_classify"]


async def encode(
    call: Call, arrival: Arrival, task: Task, inputs: Sequence[list[int]], types: Sequence[list[int]] = ()
) -> list[Vector]:
    """One result for each input; see wire.Encoded for their shapes."""
    return await call.kernel.encode(
        Encoding(
            request_id=call.request_id,
            model=arrival.model.name,
            task=task,
            inputs=list(inputs),
            types=list(types),
            tenant=call.tenant,
            pid=arrival.pid,
        )
    )


def first_task(model: Model, *tasks: Task) -> Task:
    """The first of ``tasks`` that the model can do. Raises UnsupportedModel."""
    for task in tasks:
        if task in model.info.tasks:
            return task
    able, wanted = ", ".join(model.info.tasks), " or ".join(tasks)
    raise UnsupportedModel(f"the model {model.name} does not {wanted}; it does: {able}", param="model")


def shorten(vector: Vector, dimensions: int) -> Vector:
    """The first ``dimensions`` values, made a unit vector again (Matryoshka, arXiv 2205.13147, as OpenAI does)."""
    return unit(vector[:dimensions])


def unit(vector: Vector) -> Vector:
    """``vector`` divided by its length; a zero vector stays one."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector if length == 0 else (vector / length).astype(np.float32)


def cosine(first: Vector, second: Vector) -> float:
    return float(np.dot(unit(first).astype(np.float64), unit(second).astype(np.float64)))


def usage(inputs: Sequence[Sequence[int]]) -> Json:
    tokens = sum(map(len, inputs))
    return {"prompt_tokens": tokens, "total_tokens": tokens}
