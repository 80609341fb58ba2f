"""Who may enter: the bounds that are checked before a process exists, cheapest first.

What runs is taken to be the first processes whose sequences fit into ``max_num_seqs`` rows; whoever is beyond them
queues, and at most ``max_queued`` do.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from kelm import limits
from kelm.errors import ContextTooLong, InvalidRequest, Overloaded, Unavailable
from kelm.kernel.processes import ProcessTable
from kelm.wire.messages import Loaded


class Admission:
    """The gate. Closed while the daemon starts and drains, open in between."""

    def __init__(self, max_num_seqs: int, max_queued: int, table: ProcessTable, jitter: random.Random) -> None:
        self._max_num_seqs = max_num_seqs
        self._max_queued = max_queued
        self._table = table
        self._jitter = jitter
        self._closed: str | None = "the daemon is starting"

    @property
    def closed(self) -> str | None:
        """Why nobody is admitted; None: open."""
        return self._closed

    def open(self) -> None:
        self._closed = None

    def close(self, why: str) -> None:
        self._closed = why

    def check_open(self) -> None:
        """Raises Unavailable when closed."""
        if self._closed is not None:
            raise Unavailable(f"{self._closed}; try again later", retry_after_s=self.retry_after_s())

    def check(self, rows: int, backlog_bytes: int) -> None:
        """Raises Unavailable when closed, Overloaded when the queue or the line to the worker is full."""
        self.check_open()
        waiting = self._waiting(rows)
        if waiting > self._max_queued:
            raise Overloaded(
                f"the queue is full: {waiting - 1} requests wait, the limit is {self._max_queued}; try again later",
                retry_after_s=self.retry_after_s(),
            )
        if backlog_bytes > limits.COMMAND_BACKLOG_BYTES.value:
            raise Overloaded(
                f"the worker is {backlog_bytes} bytes of requests behind; try again later",
                retry_after_s=self.retry_after_s(),
            )

    def retry_after_s(self) -> float:
        """Jittered, so that refused clients don't come back all at once."""
        return limits.RETRY_AFTER_S.value * self._jitter.uniform(0.5, 1.5)

    def _waiting(self, rows: int) -> int:
        """How many would queue, the newcomer included; 0 when it would run."""
        arrivals = [*(job.record.rows for job in self._table), rows]
        return len(arrivals) - _running(arrivals, self._max_num_seqs)


def _running(arrivals: Iterable[int], places: int) -> int:
    running = 0
    for rows in arrivals:
        places -= rows
        if places < 0:
            break
        running += 1
    return max(running, 1)


def check_prompt(prompt: list[int], max_tokens: int, info: Loaded) -> None:
    """Raises InvalidRequest for ids outside the vocabulary, ContextTooLong when prompt and answer don't fit."""
    if not prompt:
        raise InvalidRequest("the prompt has no tokens; give at least one", param="prompt")
    least, most = min(prompt), max(prompt)
    if least < 0 or most >= info.vocab:
        wrong = least if least < 0 else most
        raise InvalidRequest(f"token id {wrong} is outside the vocabulary of {info.vocab}", param="prompt")
    wanted = len(prompt) + max_tokens
    if wanted > info.max_context_tokens:
        raise ContextTooLong(
            f"this model's context is {info.max_context_tokens} tokens, but {wanted} were asked for: "
            f"{len(prompt)} in the prompt and {max_tokens} to generate; shorten the prompt or lower max_tokens",
            param="prompt" if len(prompt) >= info.max_context_tokens else "max_tokens",
        )
