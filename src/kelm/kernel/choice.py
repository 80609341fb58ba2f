"""One choice of a generation: the tokens known of it, and what of their text may be shown."""

from __future__ import annotations

from kelm.kernel.requests import Chunk
from kelm.text.stream import Released, TextStream
from kelm.wire.messages import FinishReason, TokenLogprobs, Tokens


class Choice:
    """``known`` is every token the worker reported: what a new worker goes on from."""

    def __init__(self, index: int, stream: TextStream) -> None:
        self.index = index
        self.known: list[int] = []
        self.finish: FinishReason | None = None
        self.stop: str | int | None = None
        self.last_s: float | None = None
        """When it got its last token; monotonic."""
        self._stream = stream
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._offsets: list[int] = []

    @property
    def counted(self) -> int:
        """Tokens to bill: those up to a stop string."""
        return self._stream.used_tokens

    def receive(self, tokens: Tokens) -> Chunk | None:
        """What one step brought. A chunk when there is text to show or the choice is over, else None."""
        self.known += tokens.ids
        text = self._keep(self._stream.push(tokens.ids, tokens.logprobs, stop_token=tokens.stop_token))
        if self._stream.stop is not None:
            self.finish, self.stop = "stop", self._stream.stop
        elif tokens.finish is not None:
            self.finish, self.stop = tokens.finish, tokens.stop_token
            text += self._keep(self._stream.flush())
        return self._chunk(text) if text or self.finish is not None else None

    def _keep(self, released: Released) -> str:
        """Tokens without text wait for the next text."""
        self._ids += released.ids
        self._logprobs += released.logprobs
        self._offsets += released.offsets
        return released.text

    def _chunk(self, text: str) -> Chunk:
        chunk = Chunk(
            choice=self.index,
            text=text,
            ids=self._ids,
            logprobs=self._logprobs,
            offsets=self._offsets,
            finish=self.finish,
            stop=self.stop,
        )
        self._ids, self._logprobs, self._offsets = [], [], []
        return chunk
