"""One choice's message: its text, and the tool calls in it. A whole message is the sum of its deltas."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from kelm.kernel.requests import Chunk
from kelm.serve.forms import Form
from kelm.serve.ports import Json
from kelm.text.call_reader import Piece


class Answer:
    """Chunks in order -> deltas, or the message that they add up to."""

    def __init__(self, form: Form) -> None:
        self._reader = form.reader() if form.reader is not None else None
        self._only_calls = form.only_calls

    def delta(self, chunk: Chunk) -> Json:
        if self._reader is None:
            return {"content": chunk.text} if chunk.text or chunk.finish is None else {}
        pieces = self._read(chunk)
        content = "".join(piece.content for piece in pieces)
        calls = _calls(pieces)
        delta: Json = {"content": content} if content or not (calls or chunk.finish) else {}
        return {**delta, "tool_calls": calls} if calls else delta

    def whole(self, chunks: Sequence[Chunk]) -> Json:
        message: Json = {"role": "assistant", "content": "".join(chunk.text for chunk in chunks), "refusal": None}
        if self._reader is None:
            return message
        pieces = [piece for chunk in chunks for piece in self._read(chunk)]
        calls = _calls(pieces)
        content = "".join(piece.content for piece in pieces)
        message["content"] = content or (None if calls else "")
        if calls:
            message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
        return message

    def finish(self, chunk: Chunk) -> str | None:
        """OpenAI's finish_reason after ``chunk`` was taken in."""
        calls = self._reader is not None and self._reader.ended
        return "tool_calls" if calls and chunk.finish == "stop" else chunk.finish

    def _read(self, chunk: Chunk) -> list[Piece]:
        assert self._reader is not None
        pieces = self._reader.push(chunk.text)
        pieces += self._reader.flush() if chunk.finish is not None else []
        return [piece for piece in pieces if piece.call is not None] if self._only_calls else pieces


def _calls(pieces: Sequence[Piece]) -> list[Json]:
    """The pieces of calls, added up by call; one that begins has an id, its type and its name."""
    calls: dict[int, Json] = {}
    for piece in pieces:
        if piece.call is None:
            continue
        call = calls.setdefault(piece.call, {"index": piece.call, "function": {"arguments": ""}})
        if piece.name is not None:
            function = {"name": piece.name, "arguments": ""}
            call.update({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
        call["function"]["arguments"] += piece.arguments
    return list(calls.values())
