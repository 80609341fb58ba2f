"""Every door over a small kernel: shapes, defaults, and what reaches the kernel."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from kelm.errors import Overloaded, WorkerFailed
from kelm.serve import classify, logprobs
from kelm.wire.messages import TokenLogprobs
from serve_kit import CONTEXT, ToyKernel, client_of, toy_app, toy_model


@pytest.fixture
def kernel(tmp_path: Path) -> ToyKernel:
    return ToyKernel(
        {
            "toy": toy_model(tmp_path / "toy"),
            "emb": toy_model(tmp_path / "emb", "emb:latest", tasks=["embed"]),
            "cls": toy_model(tmp_path / "cls", "cls:latest", tasks=["classify"], labels=["bad", "good"]),
            "cross": toy_model(tmp_path / "cross", "cross:latest", tasks=["classify"], labels=["LABEL_0"]),
            "ner": toy_model(
                tmp_path / "ner", "ner:latest", tasks=["token_classify"], labels=["O", "B-PER", "I-PER", "B-LOC"]
            ),
        }
    )


@pytest.fixture
async def http(tmp_path: Path, kernel: ToyKernel) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(toy_app(tmp_path, kernel)) as client:
        yield client


async def ok(http: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(http: httpx.AsyncClient, path: str, status: int = 400, **body: Any) -> dict[str, Any]:
    response = await http.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def events(http: httpx.AsyncClient, path: str, **body: Any) -> list[Any]:
    async with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        raw = (await response.aread()).decode()
    parts = raw.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    assert all(part.startswith("data: ") for part in parts[:-1])
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


# --- completions ---------------------------------------------------------------------------------------------


async def test_a_completion_of_a_string(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    answer = await ok(http, "/v1/completions", model="toy", prompt="abc")
    assert answer["object"] == "text_completion"
    assert answer["created"] == 1_800_000_000
    assert answer["model"] == "toy"
    assert answer["system_fingerprint"] == "toy-1"
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    sent = kernel.submitted[0]
    assert sent.sampling.max_tokens == 16, "OpenAI's default"
    assert answer["usage"] == {
        "prompt_tokens": len(sent.prompt),
        "completion_tokens": 16,
        "total_tokens": len(sent.prompt) + 16,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


async def test_the_four_forms_of_a_prompt_and_the_order_of_choices(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    toy = kernel.models["toy"].tokenizer
    a, b = toy.encode("quick fox"), toy.encode("lazy")
    forms: list[Any] = ["quick fox", a, ["quick fox", "lazy"], [a, b]]
    for form, prompts in zip(forms, (1, 1, 2, 2), strict=True):
        answer = await ok(http, "/v1/completions", model="toy", prompt=form, n=2, max_tokens=3)
        assert [choice["index"] for choice in answer["choices"]] == list(range(2 * prompts))
    assert [sent.prompt for sent in kernel.submitted] == [a, a, a, b, a, b]
    assert len(answer["choices"]) == 4
    alone = [await ok(http, "/v1/completions", model="toy", prompt=p, n=2, max_tokens=3) for p in (a, b)]
    texts = [choice["text"] for each in alone for choice in each["choices"]]
    assert [choice["text"] for choice in answer["choices"]] == texts


async def test_a_stream_says_what_the_whole_answer_says(http: httpx.AsyncClient) -> None:
    body = {"model": "toy", "prompt": ["quick 世界", "lazy"], "n": 2, "max_tokens": 9, "echo": True, "logprobs": 2}
    body["return_token_ids"] = True
    whole = await ok(http, "/v1/completions", **body)
    chunks = await events(http, "/v1/completions", **body, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [v for piece in mine for v in piece["logprobs"][name]] == choice["logprobs"][name]
        assert [t for piece in mine for t in piece["token_ids"]] == choice["token_ids"]
        assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [piece["finish_reason"] for piece in mine][-1] == choice["finish_reason"]
        assert all(piece["finish_reason"] is None for piece in mine[:-1])


async def test_echo_with_logprobs_covers_prompt_and_answer(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    """What lm-eval's local-completions reads."""
    answer = await ok(http, "/v1/completions", model="toy", prompt="quick fox", echo=True, logprobs=1, max_tokens=1)
    (choice,) = answer["choices"]
    prompt = kernel.submitted[0].prompt
    assert choice["text"].startswith("quick fox")
    shape = choice["logprobs"]
    assert {name: len(values) for name, values in shape.items()} == dict.fromkeys(shape, len(prompt) + 1)
    assert shape["token_logprobs"][0] is None
    assert shape["top_logprobs"][0] is None
    assert shape["token_logprobs"][1:] == [-0.5] * len(prompt)
    assert all(max(top.values()) == -0.5 for top in shape["top_logprobs"][1:])
    for token, start in zip(shape["tokens"], shape["text_offset"], strict=True):
        assert choice["text"][start:].startswith(token)


async def test_tokens_that_are_no_whole_character_are_shown_as_bytes(http: httpx.AsyncClient) -> None:
    answer = await ok(http, "/v1/completions", model="toy", prompt="龘", echo=True, logprobs=0, max_tokens=1)
    assert answer["choices"][0]["logprobs"]["tokens"][:3] == ["bytes:\\xe9", "bytes:\\xbe", "bytes:\\x98"]


def test_top_logprobs_have_the_picked_token_too(kernel: ToyKernel) -> None:
    """lm-eval compares it with the largest. Of tokens with the same text the likeliest counts."""
    tokenizer = kernel.models["toy"].tokenizer
    picked, *others = tokenizer.encode("xyz")
    entry = TokenLogprobs(picked, -3.0, 4, [(others[0], -0.5), (others[1], -1.0), (others[0], -1.5)])
    shape = logprobs.completion_logprobs(tokenizer, [entry], [0], 2)
    assert shape["top_logprobs"] == [{"y": -0.5, "z": -1.0, "x": -3.0}]
    assert shape["token_logprobs"] == [-3.0]
    unlikely = TokenLogprobs(picked, -math.inf, 400, [])
    assert logprobs.completion_logprobs(tokenizer, [unlikely], [0], 0)["token_logprobs"] == [-9999.0]


async def test_prompt_logprobs_and_token_ids_in_vllms_shape(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    body = {"model": "toy", "prompt": "quick fox", "prompt_logprobs": 2, "return_token_ids": True, "max_tokens": 2}
    (choice,) = (await ok(http, "/v1/completions", **body))["choices"]
    prompt = kernel.submitted[0].prompt
    assert choice["prompt_token_ids"] == prompt
    assert len(choice["token_ids"]) == 2
    assert choice["prompt_logprobs"][0] is None
    assert len(choice["prompt_logprobs"]) == len(prompt)
    entry = choice["prompt_logprobs"][1][str(prompt[1])]
    assert entry == {"logprob": -0.5, "rank": 1, "decoded_token": kernel.models["toy"].tokenizer.token_text(prompt[1])}
    assert (await refused(http, "/v1/completions", **body, stream=True))["param"] == "prompt_logprobs"


async def test_stop_strings_end_an_answer_and_say_which(http: httpx.AsyncClient) -> None:
    answer = await ok(http, "/v1/completions", model="toy", prompt="xyz", stop="y", max_tokens=8)
    assert answer["choices"][0]["text"] == "z"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["stop_reason"] == "y"


async def test_what_reaches_the_sampler(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    eos = kernel.models["toy"].tokenizer.eos_ids
    await ok(
        http, "/v1/completions", model="toy", prompt="a", temperature=0, top_p=0.5, top_k=-1, min_p=0.1, seed=7,
        repetition_penalty=1.1, presence_penalty=-1, frequency_penalty=1.5, logit_bias={"5": -100}, min_tokens=2,
        max_tokens=4, logprobs=3, stop_token_ids=[9], include_stop_str_in_output=True, skip_special_tokens=False,
        stop=["x"], user="me",
    )  # fmt: skip
    sent = kernel.submitted[-1]
    sampling = sent.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 0, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.1, -1, 1.5)
    assert (sampling.seed, sampling.min_tokens, sampling.max_tokens, sampling.logprobs) == (7, 2, 4, 3)
    assert sampling.logit_bias == {5: -100}
    assert sampling.stop_token_ids == (9, *eos)
    assert (sent.stop, sent.include_stop, sent.skip_special_tokens) == (("x",), True, False)
    await ok(http, "/v1/completions", model="toy", prompt="a", ignore_eos=True)
    assert kernel.submitted[-1].sampling.stop_token_ids == ()
    seeds = set()
    for _ in range(3):
        await ok(http, "/v1/completions", model="toy", prompt="a")
        seeds.add(kernel.submitted[-1].sampling.seed)
    assert len(seeds) == 3, "a request without a seed gets one of its own"


async def test_request_over_generation_config_over_openais_default(
    http: httpx.AsyncClient, kernel: ToyKernel, tmp_path: Path
) -> None:
    config = tmp_path / "generation_config.json"
    config.write_text(json.dumps({"temperature": 0.6, "top_k": 20, "top_p": 7, "max_new_tokens": 5}))
    kernel.models["toy"].files["generation_config.json"] = str(config)
    await ok(http, "/v1/completions", model="toy", prompt="a", top_k=3)
    sampling = kernel.submitted[-1].sampling
    assert sampling.temperature == 0.6, "the checkpoint's"
    assert sampling.top_k == 3, "the request's"
    assert sampling.top_p == 1.0, "7 is outside the bound, so OpenAI's default"
    assert sampling.max_tokens == 16


async def test_context_length_in_openais_words(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    error = await refused(http, "/v1/completions", model="toy", prompt="a", max_tokens=CONTEXT)
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith(
        f"This model's maximum context length is {CONTEXT} tokens. However, you requested"
    )
    long = await refused(http, "/v1/completions", model="toy", prompt=[5] * CONTEXT)
    assert long["code"] == "context_length_exceeded"
    await ok(http, "/v1/completions", model="toy", prompt=[5] * (CONTEXT - 2))
    assert kernel.submitted[-1].sampling.max_tokens == 2, "the default is cut to what fits"


async def test_best_of_only_when_it_is_n(http: httpx.AsyncClient) -> None:
    await ok(http, "/v1/completions", model="toy", prompt="a", n=2, best_of=2)
    error = await refused(http, "/v1/completions", model="toy", prompt="a", n=1, best_of=2)
    assert (error["param"], error["code"]) == ("best_of", "unsupported_parameter")


async def test_a_batch_that_is_refused_half_way_leaves_nothing_behind(
    http: httpx.AsyncClient, kernel: ToyKernel
) -> None:
    submit = kernel.submit

    def second_is_refused(request: Any) -> Any:
        if kernel.started:
            raise Overloaded("the queue is full", retry_after_s=1.2)
        return submit(request)

    kernel.submit = second_is_refused  # type: ignore[method-assign]
    response = await http.post("/v1/completions", json={"model": "toy", "prompt": ["a", "b"]})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert [process.cancelled for process in kernel.started] == [True]


async def test_an_error_after_the_headers_is_an_event(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    kernel.go.clear()

    async def fail() -> None:
        while not kernel.started:
            await asyncio.sleep(0)
        kernel.started[0].failure = WorkerFailed("the worker died twice")
        kernel.go.set()

    failing = asyncio.create_task(fail())
    parts = await events(http, "/v1/completions", model="toy", prompt="a")
    await failing
    assert parts[-1]["error"]["code"] == "worker_failed"


# --- chat ----------------------------------------------------------------------------------------------------


async def test_a_chat(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "quick"}, {"type": "text", "text": "fox"}]},
        {"role": "assistant", "content": "yes", "refusal": None, "annotations": [], "tool_calls": None},
        {"role": "user", "content": "again", "name": "me"},
    ]
    answer = await ok(http, "/v1/chat/completions", model="toy", messages=messages, max_completion_tokens=5)
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    prompt = kernel.models["toy"].tokenizer.decode(kernel.submitted[0].prompt, skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nquick\nfox<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_chat_may_fill_the_context(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    await ok(http, "/v1/chat/completions", model="toy", messages=[{"role": "user", "content": "a"}])
    sent = kernel.submitted[0]
    assert sent.sampling.max_tokens == CONTEXT - len(sent.prompt)


async def test_a_chat_stream_begins_with_the_role(http: httpx.AsyncClient) -> None:
    body = {
        "model": "toy", "messages": [{"role": "user", "content": "quick"}], "n": 2, "max_tokens": 4,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = await ok(http, "/v1/chat/completions", **body)
    chunks = await events(http, "/v1/chat/completions", **body, stream_options={"include_usage": True})
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert "".join(c["delta"].get("content", "") for c in mine) == choice["message"]["content"]
        entries = [e for c in mine if c["logprobs"] for e in c["logprobs"]["content"]]
        assert entries == choice["logprobs"]["content"]
        assert mine[-1]["finish_reason"] == "length"
    entry = whole["choices"][0]["logprobs"]["content"][0]
    assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
    assert len(entry["top_logprobs"]) == 2
    assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]


async def test_max_tokens_by_either_name(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "a"}]}
    for names in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_tokens": 3, "max_completion_tokens": 3}):
        await ok(http, "/v1/chat/completions", **body, **names)
        assert kernel.submitted[-1].sampling.max_tokens == 3
    both = {"max_tokens": 3, "max_completion_tokens": 4}
    assert (await refused(http, "/v1/chat/completions", **body, **both))["param"] == "max_tokens"
    assert (await refused(http, "/v1/chat/completions", **body, top_logprobs=1))["param"] == "top_logprobs"


# --- encoders ------------------------------------------------------------------------------------------------


async def test_embeddings_as_floats_and_as_base64(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    answer = await ok(http, "/v1/embeddings", model="emb", input=["quick", "fox"])
    assert [item["index"] for item in answer["data"]] == [0, 1]
    coded = await ok(http, "/v1/embeddings", model="emb", input=["quick", "fox"], encoding_format="base64")
    for item, other in zip(answer["data"], coded["data"], strict=True):
        raw = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert raw.tolist() == item["embedding"]
    tokens = sum(len(ids) for ids in kernel.encoded[0].inputs)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    ids = kernel.models["emb"].tokenizer.encode("quick")
    by_ids = await ok(http, "/v1/embeddings", model="emb", input=ids)
    assert by_ids["data"][0]["embedding"] == answer["data"][0]["embedding"]


async def test_dimensions_cut_and_make_a_unit_vector_again(http: httpx.AsyncClient) -> None:
    full = np.array((await ok(http, "/v1/embeddings", model="emb", input="quick"))["data"][0]["embedding"])
    cut = np.array((await ok(http, "/v1/embeddings", model="emb", input="quick", dimensions=5))["data"][0]["embedding"])
    assert len(cut) == 5
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(cut, full[:5] / np.linalg.norm(full[:5]), rtol=1e-5)
    assert (await refused(http, "/v1/embeddings", model="emb", input="a", dimensions=17))["param"] == "dimensions"


async def test_a_model_that_cannot(http: httpx.AsyncClient) -> None:
    error = await refused(http, "/v1/embeddings", model="toy", input="a")
    assert (error["code"], error["param"]) == ("unsupported_model", "model")
    assert "generate" in error["message"]


async def test_classify_texts(http: httpx.AsyncClient) -> None:
    answer = await ok(http, "/classify", model="cls", input=["quick", "fox"])
    assert answer["object"] == "list"
    for index, item in enumerate(answer["data"]):
        assert item["index"] == index
        assert item["num_classes"] == 2
        assert item["label"] == ["bad", "good"][int(np.argmax(item["probs"]))]


async def test_classify_tokens_with_their_characters(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    text = "Ada 世界 met Bob in Rome <unk> x."
    (item,) = (await ok(http, "/classify", model="ner", input=text))["data"]
    assert item["num_classes"] == 4
    assert "".join(row["text"] for row in item["tokens"] if row["text"].isascii()).replace(" ", "").startswith("Ada")
    assert {row["text"] for row in item["tokens"]} <= {text[r["start"] : r["end"]] for r in item["tokens"]}
    assert item["tokens"][-1]["end"] == len(text), "a special token's name in the text shifts nothing"
    for row in item["tokens"]:
        assert row["score"] == max(row["probs"])
        assert sum(row["probs"]) == pytest.approx(1, abs=1e-5)
    assert all(span["text"] == text[span["start"] : span["end"]] for span in item["spans"])


def test_spans_as_transformers_simple_aggregation_has_them() -> None:
    text = "Ada Lovelace met Ada in Rome"
    words = [("B-PER", 0, 3), ("I-PER", 4, 12), ("O", 13, 16), ("I-PER", 17, 20), ("B-PER", 21, 23), ("LOC", 24, 28)]
    rows = [{"label": label, "start": a, "end": b, "score": 0.5 + i / 10} for i, (label, a, b) in enumerate(words)]
    spans = classify.spans(rows, text)
    assert [(span["label"], span["text"]) for span in spans] == [
        ("PER", "Ada Lovelace"),
        ("PER", "Ada"),
        ("PER", "in"),
        ("LOC", "Rome"),
    ]
    assert [span["score"] for span in spans] == pytest.approx([0.55, 0.8, 0.9, 1.0])


async def test_score_by_embeddings_is_their_cosine(http: httpx.AsyncClient) -> None:
    answer = await ok(http, "/v1/score", model="emb", text_1="quick", text_2=["quick", "fox"])
    assert [item["object"] for item in answer["data"]] == ["score", "score"]
    assert answer["data"][0]["score"] == pytest.approx(1, abs=1e-6)
    data = (await ok(http, "/v1/embeddings", model="emb", input=["quick", "fox"]))["data"]
    expected = float(np.dot(data[0]["embedding"], data[1]["embedding"]))
    assert answer["data"][1]["score"] == pytest.approx(expected, abs=1e-6)
    pairs = await ok(http, "/score", model="emb", text_1=["a", "b"], text_2=["a", "b"])
    assert len(pairs["data"]) == 2
    assert (await refused(http, "/score", model="emb", text_1=["a", "b"], text_2=["a"]))["param"] == "text_1"


async def test_score_by_a_cross_encoder_reads_both_texts(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    await ok(http, "/score", model="cross", text_1="quick", text_2="fox")
    sent = kernel.encoded[-1]
    assert sent.task == "classify"
    ids, types = kernel.models["cross"].tokenizer.encode_pair("quick", "fox")
    assert (sent.inputs, sent.types) == ([ids], [types])


async def test_rerank_sorts_and_cuts(http: httpx.AsyncClient) -> None:
    documents = ["fox", "quick", {"text": "lazy dog"}]
    for path in ("/rerank", "/v1/rerank"):
        answer = await ok(http, path, model="emb", query="quick", documents=documents)
        assert answer["results"][0]["index"] == 1
        assert answer["results"][0]["document"] == {"text": "quick"}
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
    short = await ok(http, "/rerank", model="emb", query="q", documents=documents, top_n=1, return_documents=False)
    assert len(short["results"]) == 1
    assert "document" not in short["results"][0]


# --- tokens, models, status, admin ---------------------------------------------------------------------------


async def test_tokenize_and_back(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    tokenizer = kernel.models["toy"].tokenizer
    answer = await ok(http, "/tokenize", model="toy", prompt="quick fox", return_token_strs=True)
    assert answer["tokens"] == tokenizer.encode("quick fox")
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == CONTEXT
    assert "".join(answer["token_strs"]) == "quick fox"
    assert await ok(http, "/detokenize", model="toy", tokens=answer["tokens"]) == {"prompt": "quick fox"}
    rendered = await ok(http, "/tokenize", model="toy", messages=[{"role": "user", "content": "a"}])
    shown = await ok(http, "/detokenize", model="toy", tokens=rendered["tokens"])
    assert shown["prompt"] == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert (await refused(http, "/tokenize", model="toy"))["param"] == "prompt"


async def test_special_tokens_in_a_text_are_text_but_one_alone_is_looked_up(
    http: httpx.AsyncClient, kernel: ToyKernel
) -> None:
    """lm-eval asks for eos by its name; nothing is generated from what /tokenize says."""
    eos = kernel.models["toy"].tokenizer.eos_ids[0]
    info = (await http.get("/tokenizer_info", params={"model": "toy"})).json()
    alone = await ok(http, "/tokenize", model="toy", prompt=info["eos_token"], add_special_tokens=False)
    assert alone["tokens"] == [eos]
    among = await ok(http, "/tokenize", model="toy", prompt="a" + info["eos_token"])
    assert eos not in among["tokens"]


async def test_the_model_may_be_left_out_while_one_generates(
    http: httpx.AsyncClient, kernel: ToyKernel, tmp_path: Path
) -> None:
    assert (await ok(http, "/tokenize", prompt="a"))["count"] == 1, "the others are encoders"
    assert (await http.get("/tokenizer_info")).json()["chat_template"]
    kernel.models["two"] = toy_model(tmp_path / "two", "two:latest")
    assert (await refused(http, "/tokenize", prompt="a"))["param"] == "model"
    kernel.models = {"emb": kernel.models["emb"]}
    assert (await ok(http, "/detokenize", tokens=[5]))["prompt"]
    kernel.models = {}
    assert (await refused(http, "/tokenize", prompt="a"))["param"] == "model"


async def test_models(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]][:2] == ["toy:latest", "emb:latest"]
    assert (await http.get("/v1/models/toy")).json() == {
        "id": "toy", "object": "model", "created": 1_700_000_000, "owned_by": "kelm",
    }  # fmt: skip
    missing = await http.get("/v1/models/org/name")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert "org/name" in missing.json()["error"]["message"]


async def test_status(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    assert (await http.get("/ready")).status_code == 200
    kernel.ready = False
    assert (await http.get("/ready")).status_code == 503
    assert (await http.get("/health")).status_code == 200
    assert (await http.get("/metrics")).text == "kelm_toy 1\n"
    assert "version" in (await http.get("/version")).json()


async def test_admin(http: httpx.AsyncClient, kernel: ToyKernel) -> None:
    assert (await http.get("/admin/models")).json()["models"][0]["name"] == "toy:latest"
    assert await ok(http, "/admin/models/load", model="toy") == {"name": "toy:latest", "state": "resident"}
    await ok(http, "/admin/models/unload", model="emb")
    assert "emb" not in kernel.models
    await ok(http, "/v1/completions", model="toy", prompt="a")
    assert (await http.get("/admin/processes")).json()["processes"] == [{"pid": 1, "model": "toy:latest"}]
    assert (await http.post("/admin/shutdown")).status_code == 200
    assert kernel.shutdown_requested.is_set()
    late = await http.post("/v1/completions", json={"model": "toy", "prompt": "a"})
    assert late.status_code == 503
    assert late.headers["retry-after"] == "2"


async def test_ids_in_headers(http: httpx.AsyncClient) -> None:
    body = {"model": "toy", "prompt": ["a", "b"]}
    given = await http.post("/v1/completions", json=body, headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    assert given.headers["x-kelm-pid"] == "1,2"
    odd = await http.post("/v1/completions", json=body, headers={"x-request-id": "a b"})
    assert odd.headers["x-request-id"] not in ("a b", "")
    assert (await http.get("/nowhere")).headers["x-request-id"]
