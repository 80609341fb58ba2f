"""POST /v1/chat/completions: messages are answered. A stream begins with a chunk that only names the role."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.responses import Response

from kelm.errors import InvalidRequest, UnsupportedField
from kelm.kernel.requests import Chunk, Generation
from kelm.serve import forms, logprobs, replies, sampling
from kelm.serve.answer import Answer
from kelm.serve.ports import Call, Json, Model, answered_by
from kelm.serve.prompts import render, room
from kelm.serve.requests import ChatRequest
from kelm.serve.run import Run
from kelm.serve.stream import EventStream


async def answer(call: Call, body: ChatRequest) -> Response:
    max_tokens = _check(body)
    with await call.enter(body.model, "generate", body.priority) as arrival:
        model = arrival.model
        ids = await render(call.kernel, model, forms.chat(body))
        prompt = _Prompt(model, ids, max_tokens, await forms.of(call, model, body), arrival.pid)
        run = Run(call.kernel, [await _generation(call, body, prompt)])
    shape = _Shape(call, body, prompt)
    if body.stream:
        return EventStream(shape.events(run), run, run.headers)
    with run:
        return replies.reply(await shape.whole(run), headers=run.headers)


def _check(body: ChatRequest) -> int | None:
    """The bound on the answer, by whichever name it came. Raises for fields that contradict each other."""
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    if body.stream and body.prompt_logprobs is not None:
        raise UnsupportedField("prompt_logprobs is not supported with stream", param="prompt_logprobs")
    forms.check(body)
    names = (body.max_completion_tokens, body.max_tokens)
    if None not in names and names[0] != names[1]:
        raise InvalidRequest(
            f"max_tokens ({body.max_tokens}) and max_completion_tokens ({body.max_completion_tokens}) "
            "mean the same; send one of them",
            param="max_tokens",
        )
    return names[1] if names[0] is None else names[0]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A request's messages, ready for its model."""

    model: Model
    ids: list[int]
    max_tokens: int | None
    form: forms.Form
    pid: int


async def _generation(call: Call, body: ChatRequest, prompt: _Prompt) -> Generation:
    model, top = prompt.model, (body.top_logprobs or 0) if body.logprobs else None
    return Generation(
        request_id=call.request_id,
        model=model.name,
        prompt=prompt.ids,
        sampling=sampling.build(
            body,
            model,
            await sampling.defaults(model),
            sampling.Frame(
                max_tokens=room(model, len(prompt.ids), prompt.max_tokens, None, "messages"),
                logprobs=top,
                prompt_logprobs=body.prompt_logprobs,
                grammar=prompt.form.grammar,
            ),
        ),
        n=body.n,
        stop=body.stop,
        include_stop=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens and not prompt.form.shows_special,
        tenant=call.tenant,
        priority=body.priority,
        pid=prompt.pid,
        stream=body.stream,
    )


class _Shape:
    """Chunks of the kernel -> OpenAI's objects."""

    def __init__(self, call: Call, body: ChatRequest, prompt: _Prompt) -> None:
        self._body = body
        self._messages = [Answer(prompt.form) for _ in range(body.n)]
        self._tokenizer = prompt.model.tokenizer
        self._prompt = prompt.ids
        self._head: Json = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": call.now,
            "model": answered_by(body.model, prompt.model),
            "system_fingerprint": call.kernel.fingerprint,
        }

    async def events(self, run: Run) -> AsyncIterator[Json]:
        with_usage = bool((self._body.stream_options or {}).get("include_usage"))
        tail: Json = {"usage": None} if with_usage else {}
        begun: set[int] = set()
        async for _, chunk in run.chunks():
            if chunk.choice not in begun:
                first = {"prompt_token_ids": self._prompt} if self._body.return_token_ids and not begun else {}
                begun.add(chunk.choice)
                yield {**self._head, **first, "choices": [_role(chunk.choice)], **tail}
            yield {**self._head, "choices": [self._delta(chunk)], **tail}
        if with_usage:
            yield {**self._head, "choices": [], "usage": run.usage}

    async def whole(self, run: Run) -> Json:
        body = self._body
        pieces: dict[int, list[Chunk]] = {}
        extra: Json = {}
        async for _, chunk in run.chunks():
            pieces.setdefault(chunk.choice, []).append(chunk)
            if chunk.prompt_logprobs is not None and body.prompt_logprobs is not None:
                entries = logprobs.prompt_logprobs(self._tokenizer, chunk.prompt_logprobs, body.prompt_logprobs)
                extra["prompt_logprobs"] = entries
        if body.return_token_ids:
            extra["prompt_token_ids"] = self._prompt
        choices = [self._choice(index, pieces[index]) for index in sorted(pieces)]
        return {**self._head, "choices": choices, "usage": run.usage, **extra}

    def _delta(self, chunk: Chunk) -> Json:
        delta = self._messages[chunk.choice].delta(chunk)
        return {"index": chunk.choice, "delta": delta, **self._rest([chunk])}

    def _choice(self, index: int, chunks: Sequence[Chunk]) -> Json:
        message = self._messages[index].whole(chunks)
        return {"index": index, "message": message, **self._rest(chunks)}

    def _rest(self, chunks: Sequence[Chunk]) -> Json:
        """What a delta and a whole choice have in common."""
        last = chunks[-1]
        finish = self._messages[last.choice].finish(last)
        rest: Json = {"logprobs": None, "finish_reason": finish, "stop_reason": last.stop}
        if self._body.logprobs:
            entries = [entry for chunk in chunks for entry in chunk.logprobs]
            rest["logprobs"] = logprobs.chat_logprobs(self._tokenizer, entries, self._body.top_logprobs or 0)
        if self._body.return_token_ids:
            rest["token_ids"] = [token for chunk in chunks for token in chunk.ids]
        return rest


def _role(choice: int) -> Json:
    delta = {"role": "assistant", "content": "", "refusal": None}
    return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
