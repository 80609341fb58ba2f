"""The official ``openai`` client for Python against a running daemon; what it gets is validated, not just built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from daemon_kit import CONTEXT, Daemon

HELLO: Any = [{"role": "user", "content": "The quick brown fox"}]


@pytest.fixture
def client(served: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


def valid(kind: Any, value: Any) -> Any:
    """``value`` as the client built it, parsed again by the strict schema of its type."""
    return TypeAdapter(kind).validate_json(value.model_dump_json(exclude_unset=True))


def test_models(client: openai.OpenAI) -> None:
    ids = {valid(Model, model).id for model in client.models.list()}
    assert {"toy:latest", "emb:latest"} <= ids
    assert valid(Model, client.models.retrieve("toy")).owned_by == "kelm"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/some-model")
    assert caught.value.code == "model_not_found"


def test_completion_and_its_stream(client: openai.OpenAI) -> None:
    body: Any = {"model": "toy", "prompt": "The quick", "max_tokens": 12, "temperature": 0, "logprobs": 3}
    whole = valid(Completion, client.completions.create(**body))
    assert whole.usage.completion_tokens == 12
    (choice,) = whole.choices
    assert choice.finish_reason == "length"
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 12
    chunks = list(client.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == choice.text
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "length"
    assert len(chunks) <= 12 + 1


@pytest.mark.parametrize("extra", [{}, {"temperature": 0.8, "seed": 5, "n": 2, "logprobs": True, "top_logprobs": 2}])
def test_chat_and_its_stream(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    body: Any = {"model": "toy", "messages": HELLO, "max_completion_tokens": 10, "temperature": 0, **extra}
    whole = valid(ChatCompletion, client.chat.completions.create(**body))
    chunks = [valid(ChatCompletionChunk, chunk) for chunk in client.chat.completions.create(**body, stream=True)]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(whole.choices) == body.get("n", 1)
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        if "logprobs" in extra:
            assert len(choice.logprobs.content) == 10 or choice.finish_reason == "stop"
            assert all(-1e4 < entry.logprob <= 0 for entry in choice.logprobs.content)


def test_an_answer_may_be_sent_back(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="toy", messages=HELLO, max_tokens=4).choices[0].message
    more: Any = [*HELLO, answer, {"role": "user", "content": "more"}]
    assert client.chat.completions.create(model="toy", messages=more, max_tokens=4).choices


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="toy", messages=HELLO, max_tokens=6) as stream:
        for _ in stream:
            pass
        final = stream.current_completion_snapshot
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "length"


def test_raw_headers(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model="toy", prompt="a", max_tokens=1, extra_headers={"x-request-id": "mine"}
    )
    assert raw.headers["x-request-id"] == "mine"
    assert int(raw.headers["x-kelm-pid"]) > 0
    assert raw.parse()._request_id == "mine"


def test_extensions(client: openai.OpenAI) -> None:
    extra = {"return_token_ids": True, "ignore_eos": True, "min_tokens": 3, "prompt_logprobs": 1, "top_k": 5}
    answer = client.completions.create(model="toy", prompt="The quick", max_tokens=5, extra_body=extra)
    choice: Any = answer.choices[0]
    assert len(choice.token_ids) == 5
    assert len(choice.prompt_logprobs) == len(choice.prompt_token_ids) == answer.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_the_same_seed_says_the_same(client: openai.OpenAI) -> None:
    def say(seed: int) -> str:
        return (
            client.completions.create(model="toy", prompt="fox", max_tokens=20, temperature=1.5, seed=seed)
            .choices[0]
            .text
        )

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(4)}) > 1


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 unless told otherwise."""
    texts = ["The quick brown fox", "lazy dog"]
    coded = valid(CreateEmbeddingResponse, client.embeddings.create(model="emb", input=texts))
    plain = client.embeddings.create(model="emb", input=texts, encoding_format="float")
    for one, other in zip(coded.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)
    short = client.embeddings.create(model="emb", input=texts, dimensions=8)
    assert math.hypot(*short.data[0].embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "kind", "code", "param"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"max_tokens": CONTEXT}, openai.BadRequestError, "context_length_exceeded", "messages"),
        ({"tools": []}, openai.BadRequestError, "unsupported_parameter", "tools"),
        (
            {"response_format": {"type": "json_object"}},
            openai.BadRequestError,
            "unsupported_parameter",
            "response_format",
        ),
        ({"model": "emb"}, openai.BadRequestError, None, None),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"extra_body": {"guided_json": {}}}, openai.BadRequestError, "invalid_value", "guided_json"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_typed(
    client: openai.OpenAI, body: dict[str, Any], kind: type[openai.APIStatusError], code: Any, param: Any, stream: bool
) -> None:
    asked: Any = {"model": "toy", "messages": HELLO, "stream": stream, **body}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**asked)
    assert code is None or caught.value.code == code
    assert param is None or caught.value.param == param
    assert caught.value.request_id


async def test_the_async_client_in_parallel(served: Daemon) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="any", max_retries=0) as client:
        alone = await client.completions.create(model="toy", prompt="fox 0", max_tokens=8, temperature=0)
        many = await asyncio.gather(
            *(client.completions.create(model="toy", prompt=f"fox {i}", max_tokens=8, temperature=0) for i in range(8))
        )
    assert many[0].choices[0].text == alone.choices[0].text
