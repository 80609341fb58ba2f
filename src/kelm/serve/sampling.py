"""How a process picks tokens: the request, over the checkpoint's generation_config.json, over OpenAI's defaults.

Only the five fields that vLLM takes from generation_config.json are taken; values outside our bounds are left out.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelm.errors import InvalidRequest
from kelm.limits import Bound
from kelm.serve.ports import Json, Model
from kelm.serve.prompts import check_vocabulary
from kelm.serve.requests import SamplingFields
from kelm.text.generation import BOUNDS, FILE, read_defaults
from kelm.wire.messages import Sampling

_KEPT = 64
_seen: OrderedDict[str, Json] = OrderedDict()


async def defaults(model: Model) -> Json:
    """The checkpoint's own sampling fields, read once for each content (the blob's path names it)."""
    path = model.files.get(FILE)
    if path is None:
        return {}
    if path not in _seen:
        _seen[path] = await asyncio.to_thread(read_defaults, Path(path))
        while len(_seen) > _KEPT:
            _seen.popitem(last=False)
    return _seen[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a door knows beside the shared fields."""

    max_tokens: int
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: str | None = None


def build(fields: SamplingFields, model: Model, own: Json, frame: Frame) -> Sampling:
    """The wire's form. ``own``: what ``defaults`` found.

    Raises InvalidRequest when min_tokens passes max_tokens, or an id is outside the vocabulary.
    """
    if fields.min_tokens > frame.max_tokens:
        raise InvalidRequest(
            f"min_tokens must not pass max_tokens ({frame.max_tokens}), got {fields.min_tokens}", param="min_tokens"
        )
    bias = fields.logit_bias or {}
    check_vocabulary(model, list(bias), "logit_bias")
    check_vocabulary(model, fields.stop_token_ids, "stop_token_ids")
    ends: tuple[int, ...] = () if fields.ignore_eos else tuple(model.tokenizer.eos_ids)
    picked: Json = {bound.name: _first(getattr(fields, bound.name), own.get(bound.name), bound) for bound in BOUNDS}
    picked["top_k"] = max(0, picked["top_k"])
    return Sampling(
        **picked,
        seed=secrets.randbits(63) if fields.seed is None else fields.seed,
        max_tokens=frame.max_tokens,
        min_tokens=fields.min_tokens,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        logit_bias=bias,
        stop_token_ids=tuple(dict.fromkeys((*fields.stop_token_ids, *ends))),
        logprobs=frame.logprobs,
        prompt_logprobs=frame.prompt_logprobs,
        grammar=frame.grammar,
    )


def _first(asked: Any, own: Any, bound: Bound) -> Any:
    return asked if asked is not None else own if own is not None else bound.default
