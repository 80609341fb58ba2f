"""Kelm's doors as the desk uses them: intents, vectors, written answers, jobs. HTTP like any other client."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
from numpy.typing import NDArray

from kelm import limits
from kelm.errors import ContextTooLong, KelmError, Unavailable, by_code

Json = dict[str, Any]
_CALL_S, _CHAT_S = limits.SUPPORT_CALL_S.value, limits.SUPPORT_CHAT_S.value
_CONNECT_S = 2.0
_BATCH = 32
"""Passages embedded in one request."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon listens (``http://127.0.0.1:8420``), and its key if it has one."""

    url: str
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    label: str
    confidence: float
    """The probability of the label, by the classifier's own account."""


class Doors:
    """``locate`` says where the daemon is, None when none runs; it is asked again after every failure to connect, so a
    daemon that came back elsewhere is found.

    Every call raises the KelmError that the daemon answered, Unavailable when it doesn't answer (in time).
    """

    def __init__(self, locate: Callable[[], Address | None]) -> None:
        self._locate = locate
        self._address: Address | None = None
        self._client = httpx2.AsyncClient(trust_env=False)
        self._unknown: dict[str, int | None] = {}
        self.up = True
        """Whether the last call reached a daemon."""

    async def close(self) -> None:
        await self._client.aclose()

    async def made(self, model: str) -> int:
        """When a model came into the store (Unix time). Raises ModelNotFound, with near matches."""
        return int((await self.call("GET", f"/v1/models/{quote(model, safe='/:@')}"))["created"])

    async def classify(self, model: str, texts: Sequence[str]) -> list[Intent]:
        found = await self._encode("/classify", model, texts)
        return [Intent(row["label"], float(max(row["probs"]))) for row in found["data"]]

    async def embed(self, model: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[texts, width], rows of length 1."""
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            found = await self._encode("/v1/embeddings", model, batch, encoding_format="base64")
            rows += [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in found["data"]]
        return np.stack(rows).astype(np.float32)

    async def _encode(self, path: str, model: str, texts: Sequence[str], **more: str) -> Json:
        """Texts that are longer than the model's context are cut: their beginning is what they are about."""
        try:
            return await self.call("POST", path, {"model": model, "input": list(texts), **more})
        except ContextTooLong:
            cut = [await self._fitting(model, text) for text in texts]
            return await self.call("POST", path, {"model": model, "input": cut, **more})

    async def _fitting(self, model: str, text: str) -> str:
        while True:
            found = await self.call("POST", "/tokenize", {"model": model, "prompt": text})
            count, most = found["count"], found["max_model_len"]
            if count <= most:
                return text
            text = text[: len(text) * most // count - 1]

    async def unknown_share(self, model: str, text: str) -> float:
        """The share of the text's tokens that the model has no word for, 0 to 1. A model that was never shown a script
        still gives an answer to it, and a confident one at times."""
        if model not in self._unknown:
            self._unknown[model] = await self._unknown_token(model)
        if self._unknown[model] is None:
            return 0.0
        tokens = await self._tokens(model, text)
        return tokens.count(self._unknown[model]) / len(tokens) if tokens else 0.0

    async def _unknown_token(self, model: str) -> int | None:
        """The id that stands for what the vocabulary lacks; None where it lacks nothing, as one of bytes."""
        name = (await self.call("GET", f"/tokenizer_info?model={quote(model, safe='')}")).get("unk_token")
        found = await self._tokens(model, str(name)) if name else []
        return found[0] if len(found) == 1 else None

    async def _tokens(self, model: str, text: str) -> list[int | None]:
        """Ids of the text. A special token's name alone is its id, as /tokenize has it."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return list((await self.call("POST", "/tokenize", body))["tokens"])

    async def chat(self, model: str, messages: Sequence[Json]) -> tuple[str, bool]:
        """(answer, whether it came to its own end)."""
        most = int(limits.SUPPORT_ANSWER_TOKENS.value)
        body = {"model": model, "messages": list(messages), "temperature": 0, "max_completion_tokens": most}
        choice = (await self.call("POST", "/v1/chat/completions", body, _CHAT_S))["choices"][0]
        return choice["message"]["content"] or "", choice["finish_reason"] == "stop"

    async def call(self, method: str, path: str, body: Json | None = None, timeout_s: float = _CALL_S) -> Json:
        """One request; its answer is an object."""
        address = self._address or self._locate()
        if address is None:
            self.up = False
            raise Unavailable("no daemon runs: start one with `kelm serve -d`")
        headers = {"authorization": f"Bearer {address.api_key}"} if address.api_key else {}
        timeout = httpx2.Timeout(timeout_s, connect=_CONNECT_S)
        try:
            response = await self._client.request(
                method, address.url + path, json=body, headers=headers, timeout=timeout
            )
            value = response.json()
        except httpx2.TimeoutException:
            raise Unavailable(f"the daemon did not answer within {timeout_s:.0f} seconds") from None
        except (httpx2.HTTPError, ValueError) as error:
            self._address, self.up = None, False
            raise Unavailable(f"the daemon does not answer: {type(error).__name__}") from None
        self._address, self.up = address, True
        if response.is_error:
            raise _error(response.status_code, value)
        return dict(value)


def _error(status: int, value: Any) -> KelmError:
    detail = value.get("error") if isinstance(value, dict) else None
    if not isinstance(detail, dict):
        return KelmError(f"the daemon answered {status}")
    return by_code(str(detail.get("code")))(str(detail.get("message", status)), param=detail.get("param"))
