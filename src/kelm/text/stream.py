"""One choice's stream: which text, ids and log-probabilities may be shown after which tokens.

    token       t0      t1      t2        t3         stop string "\\n\\n"
    text        "Hi"    " th"   "ere\\n"   "\\nBye"
    shown       "Hi"    " th"   "ere"     ""          t2's last character waits; t3 completes the stop
    released    t0      t1      -         t2, t3

A token is released when all of its characters are shown, or when the stream ends inside of it. The tokens that
only made up the hidden part of a stop string are not released; ``used_tokens`` still counts them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kelm.text.detokenizer import IncrementalDetokenizer
from kelm.text.stops import StopScanner
from kelm.text.tokenizer import Tokenizer
from kelm.wire.messages import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Released:
    """What one push adds to what the client has."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    """For each id, the index in the choice's whole text of the token's first character."""
    stop: str | None = None
    """The stop string that ended the stream."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    token_id: int
    start: int
    """Characters of the text before this token."""
    end: int
    """Characters that must be shown before it is released."""
    logprobs: TokenLogprobs | None


class TextStream:
    """Detokenizer, stop strings and the tokens that wait for them. Used by the daemon and the library alike."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens)
        self._scanner = StopScanner(stop, include_stop)
        self._waiting: deque[_Waiting] = deque()
        self._decoded = 0
        self.shown_chars = 0
        self.used_tokens = 0
        """Tokens pushed, up to the one that completed a stop string."""

    @property
    def stop(self) -> str | None:
        """The stop string that ended the stream."""
        return self._scanner.hit

    def push(
        self,
        ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs] | None = None,
        *,
        stop_token: int | None = None,
    ) -> Released:
        """What these tokens allow to be shown. Tokens after a stop string are dropped, uncounted.

        ``stop_token``: the last of ``ids``, when it ended the choice; it is released and adds no text.
        """
        shown: list[str] = []
        for index, token_id in enumerate(ids):
            if self.stop is not None:
                break
            silent = stop_token is not None and index == len(ids) - 1
            text = "" if silent else self._detokenizer.push((token_id,))
            shown.append(self._take(token_id, text, logprobs[index] if logprobs else None))
        return self._release("".join(shown))

    def flush(self) -> Released:
        """The end of the stream (length, end token, cancelled): all that was held back, unless a stop hides it."""
        if self.stop is not None:
            return Released(stop=self.stop)
        text, _ = self._scanner.push(self._detokenizer.flush())
        if self.stop is None:
            text += self._scanner.flush()
        return self._release(text, all_of_it=self.stop is None)

    def _take(self, token_id: int, text: str, logprobs: TokenLogprobs | None) -> str:
        self.used_tokens += 1
        start = self._decoded
        self._decoded += len(text)
        end = self._decoded + self._detokenizer.holds_bytes
        self._waiting.append(_Waiting(token_id, start, end, logprobs))
        return self._scanner.push(text)[0] if text else ""

    def _release(self, text: str, all_of_it: bool = False) -> Released:
        self.shown_chars += len(text)
        ready: list[_Waiting] = []
        while self._waiting and (all_of_it or self._is_due(self._waiting[0])):
            ready.append(self._waiting.popleft())
        return Released(
            text=text,
            ids=[token.token_id for token in ready],
            logprobs=[token.logprobs for token in ready if token.logprobs is not None],
            offsets=[token.start for token in ready],
            stop=self.stop,
        )

    def _is_due(self, token: _Waiting) -> bool:
        """Shown as a whole; or, once a stop string ended the stream, shown in part or before the cut."""
        if self.stop is None:
            return token.end <= self.shown_chars
        return token.start < self.shown_chars or token.end <= self.shown_chars
