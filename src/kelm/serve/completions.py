"""POST /v1/completions: a prompt goes on. Choices are numbered prompt by prompt, n for each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response

from kelm.errors import UnsupportedField
from kelm.kernel.requests import Chunk, Generation
from kelm.serve import grammars, logprobs, replies, sampling
from kelm.serve.inputs import Prompt
from kelm.serve.ports import Arrival, Call, Json, Model, answered_by
from kelm.serve.prompts import room, tokenize
from kelm.serve.requests import CompletionRequest
from kelm.serve.run import Run
from kelm.serve.stream import EventStream
from kelm.wire.messages import TokenLogprobs

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


async def answer(call: Call, body: CompletionRequest) -> Response:
    _check(body)
    with await call.enter(body.model, "generate", body.priority) as arrival:
        model = arrival.model
        special = body.add_special_tokens
        prompts = [await tokenize(model, prompt, field="prompt", special=special) for prompt in body.prompt]
        own = await sampling.defaults(model)
        await grammars.of_request(call, model, body.grammar)
        run = Run(call.kernel, [_generation(call, body, arrival, ids, own) for ids in prompts])
    shape = _Shape(call, body, model, prompts)
    if body.stream:
        return EventStream(shape.events(run), run, run.headers)
    with run:
        return replies.reply(await shape.whole(run), headers=run.headers)


def _check(body: CompletionRequest) -> None:
    if body.best_of not in (None, body.n):
        raise UnsupportedField(
            f"best_of is supported only when it equals n ({body.n}), got {body.best_of}", param="best_of"
        )
    if body.stream and body.prompt_logprobs is not None:
        raise UnsupportedField("prompt_logprobs is not supported with stream", param="prompt_logprobs")


def _generation(call: Call, body: CompletionRequest, arrival: Arrival, ids: list[int], own: Json) -> Generation:
    model = arrival.model
    wanted = [each for each in (body.prompt_logprobs, body.logprobs if body.echo else None) if each is not None]
    frame = sampling.Frame(
        max_tokens=room(model, len(ids), body.max_tokens, DEFAULT_MAX_TOKENS, "prompt"),
        logprobs=body.logprobs,
        prompt_logprobs=max(wanted, default=None),
        grammar=body.grammar,
    )
    return Generation(
        request_id=call.request_id,
        model=model.name,
        prompt=ids,
        sampling=sampling.build(body, model, own, frame),
        n=body.n,
        stop=body.stop,
        include_stop=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        tenant=call.tenant,
        priority=body.priority,
        pid=arrival.pid,
        stream=body.stream,
    )


class _Shape:
    """Chunks of the kernel -> OpenAI's objects. A whole answer is the sum of the pieces of its stream."""

    def __init__(self, call: Call, body: CompletionRequest, model: Model, prompts: Sequence[list[int]]) -> None:
        self._body = body
        self._tokenizer = model.tokenizer
        self._prompts = prompts
        self._begun: set[int] = set()
        self._scores: dict[int, list[TokenLogprobs | None]] = {}
        self._echoes = [self._echo(place) for place in range(len(prompts))] if body.echo else [""] * len(prompts)
        self._head: Json = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": call.now,
            "model": answered_by(body.model, model),
            "system_fingerprint": call.kernel.fingerprint,
        }

    async def events(self, run: Run) -> AsyncIterator[Json]:
        with_usage = bool((self._body.stream_options or {}).get("include_usage"))
        tail: Json = {"usage": None} if with_usage else {}
        async for place, chunk in run.chunks():
            yield {**self._head, "choices": [self._piece(place, chunk)], **tail}
        if with_usage:
            yield {**self._head, "choices": [], "usage": run.usage}

    async def whole(self, run: Run) -> Json:
        pieces: dict[int, list[Json]] = {}
        async for place, chunk in run.chunks():
            piece = self._piece(place, chunk)
            pieces.setdefault(piece["index"], []).append(piece)
        choices = [_sum(pieces[index]) for index in sorted(pieces)]
        for choice in choices:
            self._add_prompt_logprobs(choice["index"] // self._body.n, choice)
        return {**self._head, "choices": choices, "usage": run.usage}

    def _piece(self, place: int, chunk: Chunk) -> Json:
        body = self._body
        index = place * body.n + chunk.choice
        first = index not in self._begun
        self._begun.add(index)
        if chunk.prompt_logprobs is not None:
            self._scores[place] = chunk.prompt_logprobs
        piece: Json = {
            "index": index,
            "text": (self._echoes[place] if first else "") + chunk.text,
            "logprobs": None if body.logprobs is None else self._logprobs(place, chunk, first),
            "finish_reason": chunk.finish,
            "stop_reason": chunk.stop,
        }
        if body.return_token_ids:
            piece["token_ids"] = chunk.ids
            if first:
                piece["prompt_token_ids"] = self._prompts[place]
        return piece

    def _logprobs(self, place: int, chunk: Chunk, first: bool) -> Json:
        top = self._body.logprobs or 0
        base = len(self._echoes[place])
        offsets = [base + offset for offset in chunk.offsets]
        shape = logprobs.completion_logprobs(self._tokenizer, chunk.logprobs, offsets, top)
        if not (first and self._body.echo):
            return shape
        prompt = logprobs.prompt_part(self._tokenizer, self._prompts[place], self._scores.get(place, ()), top)
        return {name: prompt[name] + values for name, values in shape.items()}

    def _add_prompt_logprobs(self, place: int, choice: Json) -> None:
        if self._body.prompt_logprobs is not None:
            entries = self._scores.get(place, [None])
            choice["prompt_logprobs"] = logprobs.prompt_logprobs(self._tokenizer, entries, self._body.prompt_logprobs)

    def _echo(self, place: int) -> str:
        prompt: Prompt = self._body.prompt[place]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt, self._body.skip_special_tokens)


def _sum(pieces: Sequence[Json]) -> Json:
    """The pieces of one choice, in order: texts and lists add up, how it ended is the last one's."""
    whole = {**pieces[0], **pieces[-1], "text": "".join(piece["text"] for piece in pieces)}
    if whole["logprobs"] is not None:
        whole["logprobs"] = {
            name: [value for piece in pieces for value in piece["logprobs"][name]] for name in whole["logprobs"]
        }
    if "token_ids" in whole:
        whole["token_ids"] = [token for piece in pieces for token in piece["token_ids"]]
    return whole
