"""Log-probabilities in OpenAI's two shapes and vLLM's third.

A token that is no whole character has no text: completions show its bytes as ``bytes:\\xe4\\xbd``, as OpenAI did.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from kelm.serve.ports import Json
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import TokenLogprobs

LEAST = -9999.0
"""What OpenAI writes for "very unlikely"; JSON has no infinity."""

Entries = Sequence[TokenLogprobs | None]


def token_name(tokenizer: Tokenizer, token: int) -> str:
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def completion_logprobs(tokenizer: Tokenizer, entries: Entries, offsets: Sequence[int], top: int) -> Json:
    """The legacy shape: parallel lists. ``top_logprobs`` always has the picked token too, as at OpenAI."""
    return {
        "tokens": [token_name(tokenizer, entry.token) for entry in entries if entry is not None],
        "token_logprobs": [max(entry.logprob, LEAST) for entry in entries if entry is not None],
        "top_logprobs": [_top(tokenizer, entry, top) for entry in entries if entry is not None],
        "text_offset": list(offsets),
    }


def _top(tokenizer: Tokenizer, entry: TokenLogprobs, top: int) -> dict[str, float]:
    """Text -> log-probability. Of tokens with the same text the likeliest counts."""
    named: dict[str, float] = {}
    for token, logprob in [*entry.top[:top], (entry.token, entry.logprob)]:
        named.setdefault(token_name(tokenizer, token), max(logprob, LEAST))
    return named


def prompt_part(tokenizer: Tokenizer, prompt: Sequence[int], entries: Entries, top: int) -> Json:
    """The legacy shape of an echoed prompt. Nothing comes before its first token, whose values are null."""
    shape = completion_logprobs(tokenizer, entries, prompt_offsets(tokenizer, prompt), top)
    shape["tokens"].insert(0, token_name(tokenizer, prompt[0]))
    shape["token_logprobs"].insert(0, None)
    shape["top_logprobs"].insert(0, None)
    return shape


def prompt_offsets(tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """For each token the characters before it; special tokens have no text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets: list[int] = []
    characters = 0
    for token in prompt:
        offsets.append(characters)
        if token not in tokenizer.special_ids:
            characters += len(decoder.decode(tokenizer.token_bytes(token)))
    return offsets


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprobs], top: int) -> Json:
    return {"content": [_chat_entry(tokenizer, entry, top) for entry in entries], "refusal": None}


def _chat_entry(tokenizer: Tokenizer, entry: TokenLogprobs, top: int) -> Json:
    return {
        **_chat_token(tokenizer, entry.token, entry.logprob),
        "top_logprobs": [_chat_token(tokenizer, token, logprob) for token, logprob in entry.top[:top]],
    }


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> Json:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, LEAST), "bytes": list(raw)}


def prompt_logprobs(tokenizer: Tokenizer, entries: Entries, top: int) -> list[Json | None]:
    """vLLM's extension: for each position null or token id -> logprob, rank and text, the prompt's own one first."""
    return [None if entry is None else _ranked(tokenizer, entry, top) for entry in entries]


def _ranked(tokenizer: Tokenizer, entry: TokenLogprobs, top: int) -> Json:
    ranked = {entry.token: (entry.logprob, entry.rank)}
    for rank, (token, logprob) in enumerate(entry.top[:top], 1):
        ranked.setdefault(token, (logprob, rank))
    return {
        str(token): {
            "logprob": max(logprob, LEAST),
            "rank": rank,
            "decoded_token": tokenizer.token_text(token),
        }
        for token, (logprob, rank) in ranked.items()
    }
