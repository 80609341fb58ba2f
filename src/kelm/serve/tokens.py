"""POST /tokenize, POST /detokenize, GET /tokenizer_info, in vLLM's shapes.

``model`` may be left out, because vLLM's clients (lm-eval) leave it out: it is then the one resident model, or the one
among them that generates, or among those the one that did not come with Kelm.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from kelm.errors import InvalidRequest
from kelm.serve import replies
from kelm.serve.ports import Call, Json, Model
from kelm.serve.prompts import check_vocabulary, off_loop, render, tokenize
from kelm.serve.requests import DetokenizeRequest, TokenizeRequest
from kelm.store.packaged import SOURCE
from kelm.text.chat import Chat


async def answer_tokenize(call: Call, body: TokenizeRequest) -> Response:
    model = await _model(call, body.model)
    ids = await _ids(call, model, body)
    content: Json = {"count": len(ids), "max_model_len": model.info.max_context_tokens, "tokens": ids}
    names = [model.tokenizer.token_text(token) for token in ids] if body.return_token_strs else None
    return replies.reply({**content, "token_strs": names})


async def answer_detokenize(call: Call, body: DetokenizeRequest) -> Response:
    model = await _model(call, body.model)
    check_vocabulary(model, body.tokens, "tokens")
    tokenizer = model.tokenizer
    text = await off_loop(lambda: tokenizer.decode(body.tokens, skip_special_tokens=False), len(body.tokens))
    return replies.reply({"prompt": text})


async def answer_info(call: Call, model: str | None) -> Response:
    return replies.reply((await _model(call, model)).tokenizer.info())


async def _model(call: Call, name: str | None) -> Model:
    if name is not None:
        return await call.kernel.resolve(name)
    resident = [row for row in call.kernel.resident() if row["state"] == "resident"]
    if len(resident) > 1:
        resident = [row for row in resident if "generate" in row["tasks"]]
    if len(resident) > 1:
        shipped = await asyncio.to_thread(_shipped, call)
        resident = [row for row in resident if row["name"] not in shipped]
    if len(resident) != 1:
        raise InvalidRequest("model is required while not exactly one model is loaded", param="model")
    return await call.kernel.resolve(resident[0]["name"])


def _shipped(call: Call) -> set[str]:
    """Names of the models that came with Kelm."""
    return {manifest.name for manifest in call.store.list() if manifest.source == SOURCE}


async def _ids(call: Call, model: Model, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("exactly one of prompt and messages is required", param="prompt")
    if body.messages is not None:
        return await render(call.kernel, model, Chat(body.messages, add_generation_prompt=body.add_generation_prompt))
    assert body.prompt is not None
    if body.prompt in model.tokenizer.named.values():
        # how lm-eval asks for the id of eos: the one way to spell a special token, and nothing is generated from it
        named = model.tokenizer.token_id(body.prompt)
        return [] if named is None else [named]
    if not body.prompt:
        return model.tokenizer.encode("", body.add_special_tokens)
    return await tokenize(model, body.prompt, field="prompt", special=body.add_special_tokens)
